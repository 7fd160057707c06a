"""Random styles as further styles of a set of images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import ProgressCallback, StageProgressCallback
from rdm_jax.data.image_set import ImageSet, cached_array
from rdm_jax.training.config import Config
from rdm_jax.training.labels import attribute, one_color_images
from rdm_jax.training.latents import cache_folder
from rdm_jax.training.restyling.painting import painted
from rdm_jax.training.restyling.style import sample_style

VERSION = 1
"""Of the styles; it names their cache."""

SEED = 21
NAME = "random-"
COPIED_AT_ONCE = 4096


def with_restyled(images: ImageSet, data: Config, progress: StageProgressCallback) -> ImageSet:
    """Returns a set with further images: those of random styles, each made of a real style of one color.

    An image keeps its caption and its attributes, but for its style's name and for `data.one_color`, which is "False".

    Args:
      images: the set.
      data: a `StyledData` section: `restyled` random styles of up to `restyled_images` images each.
      progress: called with (what, images done, total).

    Raises:
      UserError: no image is of one color.
    """
    count, of_style = data.restyled, data.restyled_images
    if not count:
        return images
    one_color = one_color_images(images, data.one_color)
    if not one_color.any():
        raise UserError(
            f"data.restyled={count} makes styles of images of one color, and the set has none by "
            f"data.one_color={data.one_color!r}; give 0, or the attribute that tells"
        )
    chosen = choose_images(np.unique(attribute(images, data.style), return_inverse=True)[1], one_color, count, of_style)
    made_of = np.concatenate(chosen)
    name = files.sha256_json([images.fingerprint, VERSION, SEED, data.size, [rows.tolist() for rows in chosen]])
    report = functools.partial(progress, "drawing random styles")
    # All images are in one mapped file: together in memory they would take as much again as on the devices.
    array = cached_array(
        cache_folder(data) / f"with-restyled-{name[:16]}",
        len(images) + len(made_of),
        lambda: itertools.chain(_copied(images), restyled(images, chosen, report)),
    )
    styles = np.repeat([f"{NAME}{number:04d}" for number in range(count)], [len(rows) for rows in chosen])
    labels = [
        {**images.attributes[row], data.style: str(style), data.one_color: "False"}
        for row, style in zip(made_of, styles, strict=True)
    ]
    return ImageSet(
        array,
        images.captions + [images.captions[row] for row in made_of],
        images.attributes + labels,
        np.concatenate([images.rows, images.rows[made_of]]),
        name,
    )


def choose_images(
    style: Int[np.ndarray, " n"], one_color: Bool[np.ndarray, " n"], count: int, of_style: int
) -> list[Int[np.ndarray, " m"]]:
    """Returns the rows of the images that each random style is made of, sorted; those of a style are of one real style.

    Args:
      style: the number of each image's style.
      one_color: which images are of one ink on white.
      count: random styles.
      of_style: images of each, or all of the real style where that has fewer.
    """
    generator = np.random.default_rng(SEED)
    known = np.unique(style[one_color])
    found = []
    for _ in range(count):
        rows = np.flatnonzero(one_color & (style == generator.choice(known)))
        found.append(np.sort(generator.permutation(rows)[:of_style]))
    return found


def _copied(images: ImageSet) -> Iterator[UInt8[np.ndarray, "m h w 3"]]:
    """Yields the images as they are."""
    for begin in range(0, len(images), COPIED_AT_ONCE):
        yield np.asarray(images.images[begin : begin + COPIED_AT_ONCE])


def restyled(
    images: ImageSet, chosen: list[Int[np.ndarray, " m"]], progress: ProgressCallback
) -> Iterator[UInt8[np.ndarray, "m h w 3"]]:
    """Yields the images of one random style after another; a style's number determines it.

    Args:
      images: the set.
      chosen: the rows of each style's images.
      progress: called with (images done, all images).
    """
    keys = jax.random.split(jax.random.key(SEED), len(chosen))
    most, done = max(map(len, chosen)), 0
    for key, rows in zip(keys, chosen, strict=True):
        found = np.asarray(_restyled(key, np.asarray(images.images[np.resize(rows, most)])))
        yield found[: len(rows)]
        done += len(rows)
        progress(done, sum(map(len, chosen)))


@jax.jit
def _restyled(key: Key[Array, ""], images: UInt8[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
    style_key, drawing_key = jax.random.split(key)
    found = painted(drawing_key, sample_style(style_key), opacity(images))
    return jnp.round((jnp.clip(found, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


def opacity(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w"]:
    """Returns the ink of drawings in one color on white, in [0, 1]; the darkest pixel of each is 1."""
    darkness = 1.0 - images.astype(jnp.float32).mean(axis=-1) / 255.0
    return darkness / jnp.maximum(darkness.max(axis=(1, 2), keepdims=True), 0.1)
