"""No first stage: the model of the data is one of pixels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class Pixels(nn.Module):
    """The first stage of a model without one: the identity, which has no parameters.

    Attributes:
      dtype: not used; every first stage has one.
    """

    dtype: Any = "float32"

    @property
    def downsampling(self) -> int:
        """Pixels of a latent on each side: 1."""
        return 1

    @property
    def embed_dim(self) -> int:
        """Channels of a latent, those of an image: 3."""
        return 3

    @property
    def encoded(self) -> int:
        """Numbers that `encode` returns for each channel of a latent: 1."""
        return 1

    @property
    def scales(self) -> int:
        """Scales of a latent: 1."""
        return 1

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of the smallest image."""
        return (jax.ShapeDtypeStruct((1, 1, 1, 3), jnp.float32),)

    def encode(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns images as they are."""
        return x

    def decode(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns images as they are."""
        return z

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns images as they are."""
        return x
