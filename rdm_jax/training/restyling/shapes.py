"""Shapes of drawings, as opacities in [0, 1]: growing, shrinking, straying, gaps, pixels, and connected areas."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from rdm_jax.conditioning.structure import spread

FLOOD_STEPS = 80  # the longest way through an area, in pixels, that gives it one number
MOST_PIXELS = 32  # the finest grid


def grown(shapes: Float[Array, "b h w"], amount: Float[Array, ""]) -> Float[Array, "b h w"]:
    """Returns shapes grown by a number of pixels in [0, 4], or shrunk where it is negative; edges stay soft."""
    signed = jnp.where(amount < 0, -shapes, shapes)
    left, size = signed, jnp.abs(amount)
    for step in range(4):
        # Squares and crosses in turn make octagons.
        larger = spread(left, corners=step % 2 == 1)
        left = left + jnp.clip(size - step, 0.0, 1.0) * (larger - left)
    return jnp.where(amount < 0, -left, left)


def scaled(shapes: Float[Array, "b h w"], factor: Float[Array, ""]) -> Float[Array, "b h w"]:
    """Returns shapes scaled about the center, with an empty margin where the factor is below 1."""
    margin = (1.0 - factor) * jnp.array(shapes.shape[1:]) / 2
    return _placed(shapes, jnp.array([factor, factor]), margin)


def shifted(shapes: Float[Array, "b h w"], offset: Float[Array, " 2"]) -> Float[Array, "b h w"]:
    """Returns shapes shifted by whole pixels, the nearest to an offset (down, right); what leaves the image is lost."""
    return _placed(shapes, jnp.ones(2), jnp.round(offset))


def _placed(shapes: Float[Array, "b h w"], scale: Float[Array, " 2"], shift: Float[Array, " 2"]) -> Array:
    return jax.image.scale_and_translate(shapes, shapes.shape, (1, 2), scale, shift, method="linear")


def strayed(key: Key[Array, ""], shapes: Float[Array, "b h w"], amount: Float[Array, ""]) -> Float[Array, "b h w"]:
    """Returns shapes whose points are moved at random by about `amount` pixels, neighboring ones alike."""
    b, h, w = shapes.shape
    moved = amount * jax.image.resize(jax.random.normal(key, (b, 9, 9, 2)), (b, h, w, 2), "cubic")
    places = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), axis=-1)[None] + moved
    sample = functools.partial(jax.scipy.ndimage.map_coordinates, order=1, mode="nearest")
    return jax.vmap(lambda one, place: sample(one, (place[..., 0], place[..., 1])))(shapes, places)


def gapped(key: Key[Array, ""], shapes: Float[Array, "b h w"], share: Float[Array, ""]) -> Float[Array, "b h w"]:
    """Returns shapes of which about a share, in [0, 1], is left out in round places."""
    b, h, w = shapes.shape
    noise = jax.image.resize(jax.random.normal(key, (b, 10, 10)), (b, h, w), "cubic")
    # The noise is a little narrower than a normal variable between its points.
    limit = 0.8 * jax.scipy.special.ndtri(jnp.clip(1.0 - share, 0.5, 1.0 - 1e-6))
    return shapes * jnp.where(share > 0, jnp.clip((limit - noise) * 6.0 + 0.5, 0.0, 1.0), 1.0)


def pixelated(shapes: Float[Array, "b h w"], pixels: Int[Array, ""]) -> Float[Array, "b h w"]:
    """Returns shapes drawn on a grid of `pixels` on each side, each of them full or empty; 0 leaves shapes alone."""
    size = shapes.shape[1]
    cell = size / jnp.maximum(pixels, 1).astype(jnp.float32)
    begin, first = jnp.arange(MOST_PIXELS)[None] * cell, jnp.arange(size)[:, None]
    shared = jnp.clip(jnp.minimum(first + 1.0, begin + cell) - jnp.maximum(first, begin), 0.0, None)
    means = jnp.einsum("hp,bhw,wq->bpq", shared, shapes, shared) / cell**2
    drawn = jnp.einsum("hp,bpq,wq->bhw", shared, (means > 0.4).astype(jnp.float32), shared)
    return jnp.where(pixels > 0, drawn, shapes)


def numbered(areas: Bool[Array, "b h w"]) -> Int[Array, "b h w"]:
    """Returns a number of 1 or more for each connected area, 0 outside: that of its last pixel."""
    _, h, w = areas.shape
    numbers = jnp.where(areas, jnp.arange(1, h * w + 1, dtype=jnp.float32).reshape(1, h, w), 0.0)

    def step(_: Any, found: Array) -> Array:
        return jnp.where(areas, spread(found, corners=False), 0.0)

    return jax.lax.fori_loop(0, FLOOD_STEPS, step, numbers).astype(jnp.int32)


def colors_of(
    key: Key[Array, ""], numbers: Int[Array, "b h w"], palette: Float[Array, "c 3"]
) -> Float[Array, "b h w 3"]:
    """Returns the color of every numbered area: the largest has the first of the palette, the others a random one."""
    b, h, w = numbers.shape
    flat = numbers.reshape(b, -1)
    sizes = jax.vmap(lambda one: jnp.bincount(one, length=h * w + 1))(flat).at[:, 0].set(0)
    largest = sizes.argmax(axis=1)
    chosen = jax.random.randint(key, (b, h * w + 1), 0, len(palette))
    chosen = chosen.at[jnp.arange(b), largest].set(0)
    return palette[jnp.take_along_axis(chosen, flat, axis=1)].reshape(b, h, w, 3)
