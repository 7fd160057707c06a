"""BERT as a sentence encoder: the mean over its output tokens, at unit length (https://arxiv.org/abs/1908.10084)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from rdm_jax.models.attention import attend
from rdm_jax.models.layers import LayerNorm

_EPSILON = 1e-12  # of BERT's norms


class PostNormBlock(nn.Module):
    """Self-attention and a feed-forward layer, each a residual layer with the norm after it, as in BERT.

    Attributes:
      heads: the number of attention heads.
      dtype: what products are computed in.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], bias: Float[Array, "b 1 n"]) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c]; `bias` is added to the logits of all queries."""
        b, n, c = x.shape

        def dense(inputs: Array, features: int, name: str) -> Array:
            return nn.Dense(features, dtype=self.dtype, name=name)(inputs)

        q, k, v = (dense(x, c, name).reshape(b, n, self.heads, -1) for name in ("query", "key", "value"))
        h = dense(attend(q, k, v, bias=bias).reshape(b, n, c), c, "out")
        x = LayerNorm(_EPSILON, self.dtype, name="norm1")(x + h)
        h = dense(nn.gelu(dense(x, 4 * c, "up"), approximate=False), c, "down")
        return LayerNorm(_EPSILON, self.dtype, name="norm2")(x + h)


class SentenceEncoder(nn.Module):
    """BERT (https://arxiv.org/abs/1810.04805) for single texts, pooled by the mean over a text's tokens."""

    vocab_size: int
    context_length: int
    width: int
    layers: int
    heads: int
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"], present: Bool[Array, "b n"]) -> Float[Array, "b c"]:
        """Maps token ids [b, n], n <= context_length, to sentence vectors [b, width] of unit length, float32.

        Args:
          tokens: ids, with the start and end tokens that the weights were trained with.
          present: false for padding.
        """
        dtype = jnp.dtype(self.dtype)
        normal = nn.initializers.normal(0.02)
        x = nn.Embed(self.vocab_size, self.width, embedding_init=normal, name="tokens")(tokens)
        x = x + self.param("positions", normal, (self.context_length, self.width))[None, : tokens.shape[1]]
        x = LayerNorm(_EPSILON, dtype, name="norm_in")(x + self.param("segment", normal, (self.width,))[None, None])
        bias = jnp.where(present, 0.0, -1e9)[:, None, :]
        for i in range(self.layers):
            x = PostNormBlock(self.heads, dtype, name=f"block_{i}")(x, bias)
        kept = present[:, :, None].astype(jnp.float32)
        mean = (x.astype(jnp.float32) * kept).sum(axis=1) / jnp.maximum(kept.sum(axis=1), 1.0)
        return mean / jnp.linalg.norm(mean, axis=1, keepdims=True)
