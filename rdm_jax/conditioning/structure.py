"""What a content neighbor shows and where, without its style: channels beside the noisy latent.

A denoiser that sees a neighbor as it is copies its weight, fill and color, since it often is nearly the image that is
to be generated. Training therefore takes the *ink*, how far each pixel is from the background, after random operations
that keep the subject and change the style; sampling takes the ink as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

LEAST_CONTRAST = 0.1  # of the strongest ink: fainter images are not stretched further
FLOOD_STEPS = 48  # the longest way around an outline, in pixels, that a silhouette is found on
WALL = 0.3  # ink from which on a pixel stops the flood


def ink(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    """Returns how far each pixel is from the background, in [0, 1]; the strongest ink of an image is 1.

    The background is the median of the pixels at the image's border.

    Args:
      images: in [-1, 1].
    """
    edges = [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]]
    background = jnp.median(jnp.concatenate(edges, axis=1), axis=1)
    distance = jnp.abs(images - background[:, None, None]).max(axis=-1) / 2.0
    return distance / jnp.maximum(distance.max(axis=(1, 2), keepdims=True), LEAST_CONTRAST)


def structure(
    shapes: Float[Array, "b h w"],
    factor: int,
    encode: Callable[[Float[Array, "b h w 3"]], Float[Array, "b h2 w2 z"]] | None = None,
) -> Float[Array, "b h2 w2 c"]:
    """Returns ink as a condition's channels at the latents' size: blocks of pixels in [-1, 1], and a channel of ones.

    With `encode`, the latents of the ink, black on white, are further channels: what is to be generated is nearly that
    in places, and a denoiser need not learn the first stage to find out. All channels of zeros are no content.

    Args:
      shapes: [b, h, w] ink; h and w multiples of `factor`.
      factor: pixels of a latent on each side.
      encode: images in [-1, 1] to z channels of latents.

    Returns:
      c = factor ** 2 + 1 channels, or z more.
    """
    b, h, w = shapes.shape
    blocks = shapes.reshape(b, h // factor, factor, w // factor, factor).swapaxes(2, 3)
    channels = 2.0 * blocks.reshape(b, h // factor, w // factor, factor**2) - 1.0
    channels = jnp.concatenate([channels, jnp.ones_like(channels[..., :1])], axis=-1)
    if encode is None:
        return channels
    images = jnp.repeat(1.0 - 2.0 * shapes[..., None], 3, axis=-1)
    return jnp.concatenate([channels, encode(images)], axis=-1)


def varied(key: Key[Array, ""], shapes: Float[Array, "b h w"], strong: Bool[Array, " b"]) -> Float[Array, "b h w"]:
    """Returns ink after random operations that keep the subject and change the style.

    Every image is warped, mostly a little. Where `strong`, it then becomes one of its thickened, thinned, outlined,
    filled, hollow or blurred forms; elsewhere it mostly stays as it is. A part is sometimes erased.

    Args:
      key: of the random numbers.
      shapes: [b, h, w] ink.
      strong: [b] whether the image is the one to be generated, of which only a part is shown.
    """
    warp_key, form_key, erase_key = jax.random.split(key, 3)
    shapes = _warped(warp_key, shapes)
    filled = silhouette(shapes)
    thick, thin = spread(shapes), -spread(-shapes)
    forms = jnp.stack(
        [shapes, thick, spread(thick), thin, thick - thin, filled, filled * (1.0 - shapes), _blurred(shapes)]
    )
    odds = jnp.where(
        strong[:, None],
        jnp.array([[0.08, 0.15, 0.12, 0.12, 0.2, 0.18, 0.08, 0.07]]),
        jnp.array([[0.7, 0.07, 0.03, 0.05, 0.04, 0.04, 0.02, 0.05]]),
    )
    chosen = jax.random.categorical(form_key, jnp.log(odds), axis=-1)
    return _erased(erase_key, forms[chosen, jnp.arange(len(shapes))])


def silhouette(shapes: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Returns ink with every enclosed region filled: all that a flood from the border does not reach."""
    open_ = 1.0 - (shapes > WALL)
    border = jnp.pad(jnp.zeros((shapes.shape[1] - 2, shapes.shape[2] - 2)), 1, constant_values=1.0)

    def step(_: Any, flood: Array) -> Array:
        return jnp.minimum(spread(flood), open_)

    return 1.0 - jax.lax.fori_loop(0, FLOOD_STEPS, step, open_ * border[None])


def spread(values: Float[Array, "b h w"], corners: bool = True) -> Float[Array, "b h w"]:
    """Returns the maximum over each pixel and its neighbors, those at its corners included or not."""
    edged = jnp.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = jnp.maximum(jnp.maximum(edged[:, :-2], edged[:, 2:]), edged[:, 1:-1])
    if corners:
        return jnp.maximum(jnp.maximum(rows[:, :, :-2], rows[:, :, 2:]), rows[:, :, 1:-1])
    columns = jnp.maximum(values, jnp.maximum(edged[:, 1:-1, :-2], edged[:, 1:-1, 2:]))
    return jnp.maximum(rows[:, :, 1:-1], columns)


def _blurred(values: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Returns the mean within a square of 5 pixels around each pixel."""
    return jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, 5, 5), (1, 1, 1), "SAME") / 25.0


def _warped(key: Key[Array, ""], shapes: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Returns images turned by up to 6 degrees, scaled by up to 12 %, shifted by up to 3 pixels, and warped.

    A quarter of these amounts is the median of the images: content that is rarely in place teaches a denoiser shaky
    lines, and content that always is in place teaches it to copy straight lines into a freehand style.
    """
    b, h, w = shapes.shape
    angle_key, scale_key, shift_key, sway_key, amount_key = jax.random.split(key, 5)
    amount = jax.random.uniform(amount_key, (b, 1, 1, 1)) ** 2
    pixels = amount * (h / 64.0)
    angle = jax.random.uniform(angle_key, (b, 1, 1), minval=-0.1, maxval=0.1) * amount[..., 0]
    scale = jnp.exp(jax.random.uniform(scale_key, (b, 1, 1, 2), minval=-0.12, maxval=0.12) * amount)
    shift = jax.random.uniform(shift_key, (b, 1, 1, 2), minval=-3.0, maxval=3.0) * pixels
    sway = jax.image.resize(jax.random.normal(sway_key, (b, 4, 4, 2)), (b, h, w, 2), "cubic") * pixels
    rows, columns = jnp.meshgrid(jnp.arange(h) - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2, indexing="ij")
    rows, columns = rows[None] * scale[..., 0], columns[None] * scale[..., 1]
    turned = jnp.stack(
        [rows * jnp.cos(angle) - columns * jnp.sin(angle), rows * jnp.sin(angle) + columns * jnp.cos(angle)], axis=-1
    )
    places = turned + shift + sway + jnp.array([(h - 1) / 2, (w - 1) / 2]).reshape(1, 1, 1, 2)
    sample = functools.partial(jax.scipy.ndimage.map_coordinates, order=1, mode="constant")
    return jax.vmap(lambda image, place: sample(image, (place[..., 0], place[..., 1])))(shapes, places)


def _erased(key: Key[Array, ""], shapes: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Returns images of which one in five lacks a block of a quarter to a half of its sides."""
    b, h, w = shapes.shape
    place_key, side_key, whether_key = jax.random.split(key, 3)
    center = jax.random.uniform(place_key, (b, 2))
    half = jax.random.uniform(side_key, (b, 2), minval=0.125, maxval=0.25)
    inside = [
        jnp.abs((jnp.arange(size)[None] + 0.5) / size - center[:, axis, None]) < half[:, axis, None]
        for axis, size in enumerate((h, w))
    ]
    block = inside[0][:, :, None] & inside[1][:, None, :] & jax.random.bernoulli(whether_key, 0.2, (b, 1, 1))
    return jnp.where(block, 0.0, shapes)
