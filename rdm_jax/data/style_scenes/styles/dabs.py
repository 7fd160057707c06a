"""Styles made of dabs of color: pointillism, watercolor, and the styles of Marlow and Isolde."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from rdm_jax.data.style_scenes.layout import Layout
from rdm_jax.data.style_scenes.shapes import Role
from rdm_jax.data.style_scenes.styles.brush import (
    FINE,
    MEDIUM,
    WHITE,
    ImageArray,
    Labels,
    Palette,
    blur,
    contours,
    coverage,
    fill,
    finish,
    grid,
    labels,
    mix,
    noise,
    palette,
    rgb,
    saturate,
    shrink,
)
from rdm_jax.data.style_scenes.vocabulary import SIZE, Scene


@functools.cache
def _hexagonal(period: float) -> Float[np.ndarray, "n 2"]:
    rows = np.arange(-1, SIZE / (period * 0.866) + 1)
    columns = np.arange(-1, SIZE / period + 2)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([(x + 0.5 * (y % 2)) * period, y * period * 0.866], -1).reshape(-1, 2)


def pointillism(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Whole round dots of varied hue over a pale underpainting."""
    colors = palette(scene, rng)
    colors[Role.GROUND] = saturate(colors[Role.GROUND], 1.3)
    canvas_labels = labels(layout, FINE)
    under = colors.copy()
    under[: Role.FLOOR + 1] = mix(under[: Role.FLOOR + 1], WHITE, 0.55)
    under[Role.MAIN :] = mix(under[Role.MAIN :], WHITE, 0.22)
    ground = canvas_labels <= Role.FLOOR
    backdrop = np.where(ground, canvas_labels, np.uint8(Role.GROUND))
    image = Image.fromarray(fill(backdrop, under))
    _dot(image, colors, backdrop, rng, 6.8, (2.6, 3.1), 26.0)
    image.paste(
        Image.fromarray(fill(canvas_labels, under)), mask=Image.fromarray(np.where(ground, np.uint8(0), np.uint8(255)))
    )
    _dot(
        image,
        colors,
        np.where(ground | (canvas_labels == Role.INK), _NOTHING, canvas_labels),
        rng,
        5.8,
        (2.4, 2.8),
        24.0,
    )
    return finish(shrink(np.asarray(image)))


_NOTHING = np.uint8(255)


def _dot(
    image: Image.Image,
    colors: Palette,
    canvas: Labels,
    rng: np.random.Generator,
    period: float,
    radius: tuple[float, float],
    sway: float,
) -> None:
    """Sets whole dots in the colors of a label map, `sway` about them, on a jittered hexagonal grid."""
    scale = FINE // SIZE
    centers = _hexagonal(period) + rng.uniform(-0.5 * period, 0, 2)
    centers = (centers + rng.uniform(-0.5, 0.5, centers.shape)) * scale
    place = np.clip(centers, 0, FINE - 1).astype(np.int64)
    roles = canvas[place[:, 1], place[:, 0]]
    centers, roles = centers[roles != _NOTHING], roles[roles != _NOTHING]
    tones = colors[roles] + rng.normal(size=(len(roles), 3)) * sway
    pale = rng.random(len(roles)) < 0.16
    tones[pale] += 0.4 * (255 - tones[pale])
    radii = rng.uniform(*radius, (len(roles), 1)) * scale
    corners = np.concatenate([centers - radii, centers + radii], 1).tolist()
    pen = ImageDraw.Draw(image)
    for corner, tone in zip(corners, np.clip(tones, 0, 255).astype(np.int64).tolist(), strict=True):
        pen.ellipse(corner, tuple(tone))


def watercolour(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Pale washes with wandering edges where the pigment gathers, on white paper with a bare border."""
    colors = palette(scene, rng)
    colors = mix(colors, WHITE, 0.12)
    ground = mix(saturate(colors[Role.GROUND], 1.35), WHITE, 0.1)
    colors[[Role.GROUND, Role.FLOOR]] = ground, np.clip(saturate(ground, 1.2) * np.float32(0.88), 0, 255)
    paper = rgb(252, 250, 244)
    size = MEDIUM
    base = labels(layout, size)
    line = np.arange(size)
    shift_x = (noise(size, rng, 22.0) * 1.8).astype(np.int64) + line[None]
    shift_y = (noise(size, rng, 22.0) * 1.8).astype(np.int64) + line[:, None]
    wandering = base[np.clip(shift_y, 0, size - 1), np.clip(shift_x, 0, size - 1)]
    image = shrink(fill(wandering, colors))
    subject = coverage(wandering > Role.FLOOR)
    rim = np.clip(subject - blur(subject * 255, 2.0) / np.float32(255), 0, 1)
    cloudy = noise(SIZE, rng, 11.0)
    density = np.float32(0.86) + np.float32(0.15) * cloudy * (np.float32(0.6) + subject) + np.float32(1.0) * rim
    density = np.maximum(density, np.float32(0.66))
    soft = np.clip(np.float32(0.35) + np.float32(0.4) * noise(SIZE, rng, 14.0), 0, 0.9)[..., None]
    image = image * (1 - soft) + blur(image, 1.5) * soft
    x, y = grid(SIZE)
    inset = np.minimum(np.minimum(x, SIZE - x), np.minimum(y, SIZE - y)) + noise(SIZE, rng, 9.0) * np.float32(1.6)
    wash = np.maximum(np.clip((inset - np.float32(3.5)) / np.float32(2.5), 0, 1), subject)
    return finish(paper - (paper - image) * (density * wash)[..., None])


def marlow(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Two inks in poor register: a pale flat layer, and over it halftone dots in the full color; navy for the key.

    The screen lies at 45 degrees and repeats every 12 pixels.
    """
    colors = palette(scene, rng)
    canvas_labels = labels(layout, MEDIUM)
    x, y = grid(MEDIUM)
    slip = (rng.integers(3, 6, 2) * rng.choice([-1, 1], 2)).tolist()
    pale = colors.copy()
    pale[[Role.GROUND, Role.FLOOR]] = mix(colors[[Role.GROUND, Role.FLOOR]], WHITE, 0.5)
    pale[[Role.MAIN, Role.SHADE]] = mix(colors[Role.MAIN], WHITE, 0.45), mix(colors[Role.MAIN], WHITE, 0.1)
    pale[Role.TINT] = mix(colors[Role.MAIN], WHITE, 0.7)
    key = rgb(38, 40, 96)
    pale[[Role.INK, Role.WOOD]] = mix(key, WHITE, 0.4), mix(key, WHITE, 0.35)
    canvas = fill(np.roll(canvas_labels, slip, (0, 1)), pale)
    tone = np.zeros(len(Role), np.float32)
    tone[[Role.GROUND, Role.FLOOR, Role.MAIN, Role.SHADE, Role.TINT]] = 0.4, 0.55, 0.66, 1.3, 0.25
    tone[[Role.LEAF, Role.BONE, Role.FLAME]] = 0.6, 0.25, 0.4
    period = np.float32(12)
    phase = np.float32(2 * np.pi) * (x + y) / period, np.float32(2 * np.pi) * (x - y) / period
    screen = np.float32(0.25) * (np.cos(phase[0]) + np.cos(phase[1])) + np.float32(0.5)
    slope = np.float32(0.5) * (y / SIZE) + np.float32(0.62)
    printed = 1 - screen < np.take(tone, canvas_labels) * slope
    inks = colors * np.float32(0.9)
    inks[[Role.GROUND, Role.FLOOR]] = saturate(colors[[Role.GROUND, Role.FLOOR]], 1.5) * np.float32(0.86)
    inks[[Role.SHADE, Role.TINT]] = colors[Role.MAIN] * np.float32(0.72), colors[Role.MAIN]
    full = fill(canvas_labels, inks)
    canvas = np.where(printed[..., None], full, canvas)
    canvas[canvas_labels == Role.WHITE] = 253
    canvas[(canvas_labels == Role.INK) | (canvas_labels == Role.WOOD)] = key.astype(np.uint8)
    return finish(shrink(canvas))


_STITCH = 18
"""The side of one cross-stitch in pixels of the canvas, six of the image."""


@functools.cache
def _threads(size: int) -> UInt8[np.ndarray, "n n"]:
    """Returns what lies on top of a stitched cloth: 0 the cloth between, 1 the lower and 2 the upper thread."""
    line = (np.arange(size) % _STITCH + 0.5) / _STITCH
    lower, upper = np.abs(line[:, None] - line[None]) < 0.2, np.abs(line[:, None] + line[None] - 1) < 0.2
    return np.where(upper, 2, np.where(lower, 1, 0)).astype(np.uint8)


@functools.cache
def _weave(size: int) -> UInt8[np.ndarray, "n n"]:
    """Returns the bare linen's checker: 0 where the thread lies below, 1 where it lies above."""
    half = np.arange(size) // (_STITCH // 2) % 2
    return (half[:, None] == half[None]).astype(np.uint8)


def isolde(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Cross-stitch in light thread on woven linen of the ground's color, with a dark back-stitched contour."""
    colors = palette(scene, rng)
    colors[Role.GROUND] = mix(colors[Role.GROUND], rgb(226, 212, 184), 0.16)
    colors[Role.FLOOR] = mix(colors[Role.FLOOR], rgb(206, 192, 164), 0.16)
    layers = np.stack([colors * np.float32(0.64) + np.float32(6), colors, mix(colors, WHITE, 0.26)])
    layers[:, Role.GROUND] = colors[Role.GROUND] * rgb(0.91, 1.03, 1.03)[:, None]
    canvas_labels = labels(layout, MEDIUM)
    layer = np.where(canvas_labels == Role.GROUND, _weave(MEDIUM), _threads(MEDIUM))
    canvas = fill(canvas_labels + np.uint8(len(Role)) * layer, layers.reshape(-1, 3))
    thread = coverage(contours(layout, FINE, 1.5) > 0)[..., None]
    dark = colors[Role.MAIN] * np.float32(0.32)
    return finish(dark * thread + shrink(canvas) * (1 - thread))
