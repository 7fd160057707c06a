"""Styles built of flat pieces: poster, mosaic, pixel art, stained glass."""

from __future__ import annotations

import numpy as np

from rdm_jax.data.style_scenes.layout import Layout
from rdm_jax.data.style_scenes.shapes import Role
from rdm_jax.data.style_scenes.styles.brush import (
    FINE,
    MEDIUM,
    ImageArray,
    Labels,
    contours,
    coverage,
    fill,
    finish,
    grid,
    labels,
    mix,
    palette,
    rgb,
    saturate,
    shards,
    shrink,
)
from rdm_jax.data.style_scenes.vocabulary import SIZE, Scene

_WEIGHT = np.ones(len(Role), np.float32)
_WEIGHT[[Role.WHITE, Role.INK, Role.MIST, Role.WOOD]] = 1.5, 1.7, 1.5, 1.3


def poster(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Flat, even color without lines."""
    return finish(shrink(fill(labels(layout, FINE), palette(scene, rng))))


def mosaic(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Square tiles of varied shade in a turned grid, cut along the silhouettes, in dark mortar."""
    colors = saturate(palette(scene, rng), 0.95)
    colors[Role.GROUND] = saturate(colors[Role.GROUND], 1.35) * 0.95
    turn, period = rng.uniform(0.15, 0.5) * rng.choice([-1, 1]), rng.uniform(6.6, 7.2)
    x, y = grid(MEDIUM)
    c, s = np.float32(np.cos(turn) / period), np.float32(np.sin(turn) / period)
    u = x * c + y * s + np.float32(rng.uniform(20, 21))
    v = y * c - x * s + np.float32(rng.uniform(20, 21))
    column, row = u.astype(np.int32), v.astype(np.int32)
    shade = np.take(rng.uniform(0.84, 1.14, 1024).astype(np.float32), (column * 37 + row) & 1023)
    u -= column
    v -= row
    mortar = (u < 0.16) | (v < 0.16)
    bed = mix(colors[Role.GROUND], rgb(70, 62, 60), 0.36)
    canvas_labels = labels(layout, MEDIUM)
    subject = canvas_labels > Role.FLOOR
    shade *= np.where(mortar & subject, np.float32(0.5), np.float32(1))
    canvas = fill(canvas_labels, colors) * shade[..., None]
    np.copyto(canvas, bed, where=(mortar & ~subject)[..., None])
    image = shrink(canvas)
    lead = coverage(contours(layout, FINE, 1.3) > 0)[..., None]
    return finish(rgb(58, 50, 50) * lead + image * (1 - lead))


def pixel_art(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Square pixels three across, a black rim round the subject, a checkered floor."""
    colors = palette(scene, rng, jitter=4.0)
    block = 3
    count = -(-SIZE // block)
    fine = labels(layout, count * 6)
    cells = _vote(fine, count)
    subject = np.pad((cells > Role.FLOOR) & (cells != Role.MIST) & (cells != Role.INK), 1)
    near = subject[:-2, 1:-1] | subject[2:, 1:-1] | subject[1:-1, :-2] | subject[1:-1, 2:]
    inside = subject[1:-1, 1:-1]
    rim = near & ~inside & (cells != Role.MIST)
    image = np.round(colors / 16)[cells] * 16
    checker = (np.arange(count)[:, None] // 2 + np.arange(count) // 2) % 2 == 1
    image[checker & (cells == Role.FLOOR)] *= np.float32(0.86)
    image[rim] = rgb(24, 20, 34)
    return finish(np.repeat(np.repeat(image, block, 0), block, 1)[1 : SIZE + 1, 1 : SIZE + 1])


def _vote(fine: Labels, count: int) -> Labels:
    """Returns the weightiest label of each 6x6 block: small bright and dark details outweigh what they lie on."""
    samples = fine[1::2, 1::2].reshape(count, 3, count, 3)
    votes = (samples[None] == np.arange(len(Role))[:, None, None, None, None]).sum((2, 4))
    return (votes * _WEIGHT[:, None, None]).argmax(0).astype(np.uint8)


def stained_glass(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Glowing shards of glass between dark leads."""
    colors = saturate(palette(scene, rng), 1.2)
    colors[Role.GROUND] = np.clip(saturate(colors[Role.GROUND], 2.1) * 0.95, 0, 255)
    colors[Role.FLOOR] = colors[Role.GROUND] * 0.72
    colors[Role.MIST] = rgb(236, 240, 244)
    edge, number = shards(MEDIUM, rng, 54)
    glow = np.minimum(edge * np.float32(1 / 18), 1) * np.float32(0.26) + np.float32(0.8)
    glow *= np.take(rng.uniform(0.88, 1.12, 512).astype(np.float32), number & 511)
    canvas_labels = labels(layout, MEDIUM)
    plain = canvas_labels > Role.FLOOR
    glow = np.where(plain, np.float32(0.5) + glow * np.float32(0.5), glow)
    canvas = fill(canvas_labels, colors) * glow[..., None]
    leads = (edge < 2.6) & ~plain
    canvas[leads] = rgb(22, 20, 26)
    image = shrink(canvas)
    lead = coverage(contours(layout, FINE, 2.0) > 0)[..., None]
    return finish(rgb(22, 20, 26) * lead + image * (1 - lead))
