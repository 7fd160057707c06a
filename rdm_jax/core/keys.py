"""Random keys: one for each image, so that image i is the same at any batch size, device count or resume."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def image_keys(seed: int, indices: Int[Array, "b"]) -> Key[Array, "b"]:
    """Returns the key of each image, `fold_in(key(seed), index)`.

    Args:
      seed: the run's seed, in [0, 2**32).
      indices: [b] the images' positions in the whole run, counted over all batches.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), indices)


def normal(keys: Key[Array, "b"], shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Returns standard normal noise `[b, *shape]` in float32, each image's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
