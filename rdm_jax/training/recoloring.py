"""Random colors of one-color images: a set may have any ink and background; training sets are mostly black on white."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def recolored(
    key: Key[Array, ""], images: Float[Array, "b k h w 3"], one_color: Array, share: float
) -> Float[Array, "b k h w 3"]:
    """Returns images in [-1, 1] of which a fraction of the one-color ones has a random ink and background.

    The images of a group of k have the same colors. Ink and background differ by at least a quarter of their range.

    Args:
      key: of the random numbers.
      images: in groups of k that belong together.
      one_color: [b] which groups are of one ink on white.
      share: of these, in [0, 1].
    """
    ink_key, ground_key, whether_key, dark_key = jax.random.split(key, 4)
    b = len(images)
    ink_color = jax.random.uniform(ink_key, (b, 3), minval=-1.0, maxval=1.0)
    # A background is mostly white or nearly black, as pages are; otherwise of any color.
    plain = jnp.where(jax.random.bernoulli(dark_key, 0.5, (b, 1)), 1.0, -0.8)
    ground_keys = jax.random.split(ground_key)
    other = jax.random.uniform(ground_keys[0], (b, 3), minval=-1.0, maxval=1.0)
    ground = jnp.where(jax.random.bernoulli(ground_keys[1], 0.7, (b, 1)), plain, other)
    differs = jnp.abs(ink_color - ground).max(axis=-1) >= 0.5
    chosen = one_color & differs & jax.random.bernoulli(whether_key, share, (b,))
    darkest = images.min(axis=(1, 2, 3, 4), keepdims=True)
    alpha = ((1.0 - images.mean(axis=-1, keepdims=True)) / jnp.maximum(1.0 - darkest, 1e-3)).clip(0.0, 1.0)
    ink_color, ground = ink_color[:, None, None, None], ground[:, None, None, None]
    return jnp.where(chosen[:, None, None, None, None], alpha * ink_color + (1.0 - alpha) * ground, images)
