"""Guidance by an ordinary CLIP on the clean estimate: Huang et al. 2022, MGAD (https://arxiv.org/abs/2209.13360).

What is believed of x0 is decoded, cut into random squares, and compared with texts and pictures by the spherical
distance; total variation keeps it smooth. No network needs to know noise, at the price of a gradient through the
decoder and the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.guidance.gradient import Objective

FOLD = 0x36A  # this file's number among those that draw from a step's keys
SMALLEST = 0.3  # of a square's side, in sides of the picture


def clip_distance(
    decode: Callable[[Float[Array, "b h w c"]], Float[Array, "b h2 w2 3"]],
    encode: Callable[[Float[Array, "n s s 3"]], Float[Array, "n d"]],
    targets: Float[Array, "b k d"],
    shares: Float[Array, "b k"],
    weight: Any,
    *,
    size: int,
    cutouts: int = 16,
    smoothness: Any = 0.0,
) -> Objective:
    """Returns the objective: minus the mean distance of cutouts to the targets, minus the total variation.

    Args:
      decode: latents to pictures in about [-1, 1].
      encode: pictures of `size`, in [-1, 1], to vectors.
      targets: [b, k, d] vectors of texts or pictures.
      shares: [b, k] how much each counts, of either sign; taken as they are.
      weight: of the distance, 5000 in the paper.
      size: of the pictures that `encode` takes.
      cutouts: how many squares of each picture are looked at.
      smoothness: weight of the total variation, 400 in the paper.
    """

    def measure(x0: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, " b"]:
        """Returns how near each image's cutouts are to its targets, and how smooth it is."""
        if info.keys is None:
            raise ValueError("cutouts are drawn in each step: give the plan its keys, `with_keys(steps, keys)`")
        pictures = decode(x0)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, FOLD))(info.keys)
        squares = jax.vmap(lambda key, picture: cut(key, picture, size, cutouts))(keys, pictures)
        vectors = encode(squares.reshape(-1, size, size, 3)).reshape(len(x0), cutouts, 1, -1)
        distances = spherical_distance(vectors, targets[:, None])
        total = -weight * jnp.mean(jnp.sum(shares[:, None] * distances, axis=-1), axis=-1)
        return total - smoothness * total_variation(pictures)

    return Objective(measure, 1.0, of_x0=True)


def cut(
    key: Key[Array, ""], picture: Float[Array, "h w 3"], size: int, count: int
) -> Float[Array, "count size size 3"]:
    """Returns random squares of a picture, resized; their sides are spread as the square root of uniform numbers.

    Args:
      key: of the draw.
      picture: what they are cut from.
      size: theirs.
      count: how many.
    """
    height, width, _ = picture.shape
    side_key, top_key, left_key = jax.random.split(key, 3)
    shortest = min(height, width)
    sides = shortest * (SMALLEST + (1.0 - SMALLEST) * jnp.sqrt(jax.random.uniform(side_key, (count,))))
    tops = jax.random.uniform(top_key, (count,)) * (height - sides)
    lefts = jax.random.uniform(left_key, (count,)) * (width - sides)

    def one(side: Array, top: Array, left: Array) -> Array:
        """Returns one square, resized."""
        scale = jnp.stack([size / side] * 2)
        moved = -jnp.stack([top, left]) * scale
        return jax.image.scale_and_translate(picture, (size, size, 3), (0, 1), scale, moved, "linear", antialias=True)

    return jax.vmap(one)(sides, tops, lefts)


def spherical_distance(one: Float[Array, "... d"], other: Float[Array, "... d"]) -> Float[Array, "..."]:
    """Returns half the squared angle between vectors: 2 asin^2(|a - b| / 2) of their directions."""
    a, b = (v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-12) for v in (one, other))
    # The root's slope is infinite at equal directions.
    chord = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(a - b), axis=-1), 1e-12))
    return 2.0 * jnp.square(jnp.arcsin(jnp.minimum(chord / 2.0, 1.0 - 1e-6)))


def total_variation(pictures: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns the mean squared difference of neighbouring pixels of each picture."""
    down, right = jnp.diff(pictures, axis=1), jnp.diff(pictures, axis=2)
    return jnp.mean(jnp.square(down), axis=(1, 2, 3)) + jnp.mean(jnp.square(right), axis=(1, 2, 3))
