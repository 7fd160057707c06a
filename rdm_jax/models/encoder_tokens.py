"""Context tokens of several encoders: each output has a projection of its own (eDiff-I,
https://arxiv.org/abs/2211.01324, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.models.layers import LayerNorm


class EncoderTokens(nn.Module):
    """Projects what encoders give to tokens, a linear layer and a norm for each encoder; and has a null token.

    Attributes:
      encoders: their names.
      sizes: the size of each one's outputs.
      token_dim: the size of a token.
      beside_time: the encoders whose vectors are beside the time as well, one after the other.
      dtype: what products are computed in.
    """

    encoders: tuple[str, ...]
    sizes: tuple[int, ...]
    token_dim: int
    beside_time: tuple[str, ...] = ()
    dtype: Any = "float32"

    @property
    def dims(self) -> dict[str, int]:
        """The size of the outputs of each encoder."""
        return dict(zip(self.encoders, self.sizes, strict=True))

    @property
    def vector_dim(self) -> int:
        """The size of the vector beside the time; 0 for none."""
        return sum(self.dims[name] for name in self.beside_time)

    @property
    def smallest_inputs(self) -> tuple[dict[str, jax.ShapeDtypeStruct]]:
        """The shapes and types of one output of each encoder."""
        return ({name: jax.ShapeDtypeStruct((1, 1, size), jnp.float32) for name, size in self.dims.items()},)

    def setup(self) -> None:
        """Creates the projections, the norms and the null token."""
        dtype = jnp.dtype(self.dtype)
        self.projection = {name: nn.Dense(self.token_dim, dtype=dtype) for name in self.encoders}
        self.norm = {name: LayerNorm(dtype=dtype) for name in self.encoders}
        self.null = self.param("null", nn.initializers.normal(0.02), (self.token_dim,))

    def __call__(self, outputs: Mapping[str, Float[Array, "b _ _"]]) -> dict[str, Float[Array, "b _ c"]]:
        """Maps the outputs [b, n, d] of some encoders to their tokens [b, n, token_dim], by the encoders' names."""
        return {name: self.norm[name](self.projection[name](one)).astype(jnp.float32) for name, one in outputs.items()}
