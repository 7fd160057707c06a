"""The transformer of latent diffusion's text and layout conditions, read out at every token.

It is not causal and has no mask: padding is attended to like any other token
(https://arxiv.org/abs/2112.10752, section 3.3 and appendix E.2.1).
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import Attention
from rdm_jax.models.layers import LayerNorm


class TokenStates(nn.Module):
    """Token embeddings, learned positions, pre-norm blocks of self-attention and feed-forward, and a final norm.

    Attributes:
      vocab_size: the number of token embeddings.
      context_length: the most tokens of a row.
      width: the channels of a token.
      layers: the number of blocks.
      heads: of each block; they do not follow from the width.
      head_channels: channels of one head.
      dtype: what products are computed in.
    """

    vocab_size: int
    context_length: int
    width: int
    layers: int
    heads: int = 8
    head_channels: int = 64
    dtype: Any = "float32"

    has_marks: ClassVar[bool] = True
    has_summary: ClassVar[bool] = False

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of one row of tokens."""
        return (jax.ShapeDtypeStruct((1, self.context_length), jnp.int32),)

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Maps token ids [b, n], n <= context_length, to their states [b, n, width], float32.

        Raises:
          UserError: the rows are longer than `context_length`.
        """
        length = tokens.shape[1]
        if length > self.context_length:
            raise UserError(f"{length} tokens are too many; this encoder takes {self.context_length}, truncate them")
        dtype, normal = jnp.dtype(self.dtype), nn.initializers.normal(0.02)
        x = nn.Embed(self.vocab_size, self.width, dtype=dtype, embedding_init=normal, name="tokens")(tokens)
        positions = self.param("positions", normal, (self.context_length, self.width))
        x = x + positions[:length].astype(dtype)[None]
        for i in range(self.layers):
            x = TokenBlock(self.heads, self.head_channels, dtype, name=f"block_{i}")(x)
        return LayerNorm(dtype=dtype, name="norm_out")(x).astype(jnp.float32)


class TokenBlock(nn.Module):
    """Self-attention of all tokens and a feed-forward layer with an exact GELU, both pre-norm residual layers."""

    heads: int
    head_channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c]."""
        c = x.shape[-1]
        h = LayerNorm(dtype=self.dtype, name="norm1")(x)
        x = x + Attention(self.heads, self.head_channels, None, self.dtype, name="attn")(h, h)
        h = nn.Dense(4 * c, dtype=self.dtype, name="up")(LayerNorm(dtype=self.dtype, name="norm2")(x))
        return x + nn.Dense(c, dtype=self.dtype, name="down")(nn.gelu(h, approximate=False))
