"""The transformer of latent diffusion's text and layout conditions, read out at every token.

It is not causal and has no mask: padding is attended to like any other token
(https://arxiv.org/abs/2112.10752, section 3.3 and appendix E.2.1).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.models.attention import Attention
from rdm_jax.models.layers import LayerNorm
from rdm_jax.models.token_rows import TokenRows


class TokenStates(TokenRows):
    """Embedded tokens, pre-norm blocks of self-attention and feed-forward, and a final norm.

    Attributes:
      heads: of each block; they do not follow from the width.
      head_channels: channels of one head.
      dtype: what products are computed in.
    """

    heads: int = 8
    head_channels: int = 64
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Maps token ids [b, n], n <= context_length, to their states [b, n, width], float32.

        Raises:
          UserError: the rows are longer than `context_length`.
        """
        dtype = jnp.dtype(self.dtype)
        x = self.embedded(tokens, dtype)
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
