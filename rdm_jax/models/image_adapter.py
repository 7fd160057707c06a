"""What makes tokens of images for an adapter's attention, from what an image encoder gives of them.

The networks of IP-Adapter (https://arxiv.org/abs/2308.06721, section 3.2).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.models.layers import LayerNorm


class VectorProjection(nn.Module):
    """Makes tokens of an image's vector: a linear layer, and a norm over each token.

    Attributes:
      vector_dim: the length of a vector.
      token_dim: the size of a token.
      tokens: of each image.
      dtype: what products are computed in.
    """

    vector_dim: int
    token_dim: int
    tokens: int = 4
    dtype: Any = "float32"

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of one vector."""
        return (jax.ShapeDtypeStruct((1, self.vector_dim), jnp.float32),)

    @nn.compact
    def __call__(self, vectors: Float[Array, "b d"]) -> Float[Array, "b n c"]:
        """Maps vectors [b, vector_dim], as the encoder projects them and not normalized, to [b, tokens, token_dim]."""
        dtype = jnp.dtype(self.dtype)
        flat = nn.Dense(self.tokens * self.token_dim, dtype=dtype, name="projection")(vectors)
        tokens = flat.reshape(len(vectors), self.tokens, self.token_dim)
        return LayerNorm(dtype=dtype, name="norm_out")(tokens).astype(jnp.float32)
