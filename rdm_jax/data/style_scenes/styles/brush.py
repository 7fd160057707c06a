"""What all styles paint with: label maps, contours, palettes, and textures cut at random from larger sheets."""

from __future__ import annotations

import functools
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFilter

from rdm_jax.data.style_scenes.layout import Layout
from rdm_jax.data.style_scenes.shapes import Role
from rdm_jax.data.style_scenes.vocabulary import COLORS, GROUNDS, SIZE, Scene

ImageArray: TypeAlias = UInt8[np.ndarray, "64 64 3"]
Labels: TypeAlias = UInt8[np.ndarray, "_ _"]
Palette: TypeAlias = Float32[np.ndarray, "_ 3"]
Field: TypeAlias = Float32[np.ndarray, "_ _"]

FINE = 4 * SIZE
"""Side of the canvas for flat color and contours, in pixels."""

MEDIUM = 3 * SIZE
"""Side of the canvas for woven and ruled textures, in pixels."""

SHEET = 640
"""Side of the texture sheets, in pixels."""

WHITE = np.full(3, 255, np.float32)


def rgb(*values: float | int) -> Float32[np.ndarray, "3"]:
    """Returns a color in [0, 255]."""
    return np.array(values, np.float32)


def mix(a: Shaped[np.ndarray, "..."], b: Shaped[np.ndarray, "..."], share: float) -> Float32[np.ndarray, "..."]:
    """Returns the blend of two colors that holds `share` of the second."""
    return (a + (b - a) * np.float32(share)).astype(np.float32)


def saturate(color: Float32[np.ndarray, "*n 3"], factor: float) -> Float32[np.ndarray, "*n 3"]:
    """Returns colors `factor` times as far from their own gray, within [0, 255]."""
    gray = color.mean(-1, keepdims=True)
    return np.clip(gray + (color - gray) * np.float32(factor), 0, 255)


def palette(scene: Scene, rng: np.random.Generator, jitter: float = 8.0) -> Palette:
    """Returns each role's color in [0, 255] for a scene, the subject's and the ground's slightly varied."""
    main = np.clip(np.array(COLORS[scene.colour]) + rng.uniform(-jitter, jitter, 3), 0, 255).astype(np.float32)
    ground = np.clip(np.array(GROUNDS[scene.ground]) + rng.uniform(-3, 3, 3), 0, 255).astype(np.float32)
    colors = np.empty((len(Role), 3), np.float32)
    colors[Role.GROUND] = ground
    colors[Role.FLOOR] = saturate(ground, 1.4) * 0.82
    colors[Role.MAIN] = main
    colors[Role.SHADE] = main * rgb(0.74, 0.64, 0.7)
    colors[Role.TINT] = mix(main, WHITE, 0.5)
    colors[Role.WHITE] = rgb(253, 253, 250)
    colors[Role.INK] = rgb(32, 28, 40)
    colors[Role.WOOD] = rgb(106, 70, 46)
    colors[Role.LEAF] = rgb(46, 112, 58)
    colors[Role.BONE] = rgb(236, 216, 182)
    colors[Role.FLAME] = rgb(255, 164, 36)
    colors[Role.MIST] = colors[Role.FLOOR] * 0.88
    return colors


def _flat(points: Float[np.ndarray, "n 2"], size: int) -> list[float]:
    return (points * size - 0.5).ravel().tolist()


def labels(layout: Layout, size: int) -> Labels:
    """Returns the role seen at each pixel of a square canvas of the side `size`."""
    image = Image.new("L", (size, size), int(Role.GROUND))
    pen = ImageDraw.Draw(image)
    for part in layout:
        if part.width:
            pen.line(_flat(part.points, size), int(part.role), max(1, round(part.width * size)), joint="curve")
        else:
            pen.polygon(_flat(part.points, size), int(part.role))
    return np.asarray(image)


def contours(layout: Layout, size: int, width: float) -> Labels:
    """Returns 1 + the role whose contour runs through each pixel, 0 where none does; hidden lines are left out.

    Args:
      layout: the image's parts.
      size: the canvas's side in pixels.
      width: the width of the lines, in pixels of the finished image; small parts in ink are filled.
    """
    image = Image.new("L", (size, size), 0)
    pen = ImageDraw.Draw(image)
    pixels = max(1, round(width * size / SIZE))
    for part in layout:
        flat = _flat(part.points, size)
        if not part.width:
            if part.line:
                pen.polygon(flat, 0)
                pen.line([*flat, *flat[:4]], int(part.role) + 1, pixels, joint="curve")
            elif part.role in (Role.INK, Role.WHITE):
                pen.polygon(flat, int(part.role) + 1 if part.role == Role.INK else 0)
        else:
            pen.line(flat, int(part.role) + 1, pixels, joint="curve")
    return np.asarray(image)


def coverage(mask: Bool[np.ndarray, "n n"]) -> Float32[np.ndarray, "64 64"]:
    """Returns the fraction of each pixel of the image that a mask on a larger canvas covers, in [0, 1]."""
    canvas = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    return np.asarray(canvas.reduce(canvas.width // SIZE), np.float32) / np.float32(255)


def shrink(canvas: Shaped[np.ndarray, "n n *c"]) -> Float32[np.ndarray, "64 64 *c"]:
    """Returns the image, in [0, 255], that a larger canvas averages to."""
    if canvas.dtype != np.uint8:
        canvas = np.clip(canvas, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(canvas).reduce(canvas.shape[0] // SIZE), np.float32)


def fill(canvas: Labels, colors: Palette) -> UInt8[np.ndarray, "n n 3"]:
    """Returns a canvas with each label in its color."""
    image = Image.fromarray(canvas)
    image.putpalette(np.clip(colors, 0, 255).astype(np.uint8).tobytes())  # six times as fast as NumPy's indexing
    return np.asarray(image.convert("RGB"))


def finish(image: Shaped[np.ndarray, "64 64 3"]) -> ImageArray:
    """Returns the image rounded to uint8."""
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)


def blur(image: Shaped[np.ndarray, "64 64 *c"], radius: float) -> Float32[np.ndarray, "64 64 *c"]:
    """Returns an image with values in [0, 255] under a Gaussian blur of the radius given, in pixels."""
    clipped = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    return np.asarray(clipped.filter(ImageFilter.GaussianBlur(radius)), np.float32)


@functools.cache
def grid(size: int) -> tuple[Float32[np.ndarray, "1 n"], Float32[np.ndarray, "n 1"]]:
    """Returns the x and y of each pixel of a square canvas, in pixels of the finished image."""
    line = ((np.arange(size) + 0.5) * SIZE / size).astype(np.float32)
    return line[None, :], line[:, None]


@functools.cache
def _noise_sheet(cell_x: float, cell_y: float) -> Field:
    rng = np.random.default_rng([int(cell_x * 10), int(cell_y * 10)])
    coarse = rng.normal(size=(int(SHEET / cell_y) + 2, int(SHEET / cell_x) + 2)).astype(np.float32)
    sheet = np.asarray(Image.fromarray(coarse).resize((SHEET, SHEET), Image.Resampling.BICUBIC))
    return (sheet / sheet.std()).astype(np.float32)


def noise(size: int, rng: np.random.Generator, cell_x: float, cell_y: float | None = None) -> Field:
    """Returns a smooth random field of unit variance whose blotches are `cell_x` by `cell_y` canvas pixels."""
    return _noise_sheet(cell_x, cell_x if cell_y is None else cell_y)[_window(size, rng)]


def _window(size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Returns where to cut a canvas from a sheet: a random square, each axis forward or backward."""
    first, second = (
        slice(start, start + size) if forward else slice(start + size, start, -1)
        for start, forward in zip(rng.integers(0, SHEET - size, 2).tolist(), rng.random(2) < 0.5, strict=True)
    )
    return first, second


@functools.cache
def _shard_sheet(cell: int) -> tuple[Field, Int32[np.ndarray, "n n"]]:
    """Returns a sheet of Voronoi cells, one seed in each square of a grid: distances to the edges, and numbers."""
    rng = np.random.default_rng(cell)
    side = SHEET // cell + 5
    square = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1) - 2.0
    seeds = ((square + rng.uniform(0.12, 0.88, square.shape)) * cell).reshape(-1, 2)
    home = np.arange(SHEET) // cell + 2
    steps = range(-2, 3)
    near = np.stack([(home + dy)[:, None] * side + home + dx for dy in steps for dx in steps])
    pixel = np.stack(np.meshgrid(np.arange(SHEET), np.arange(SHEET), indexing="ij"), -1) + 0.5
    distance = ((seeds[near] - pixel) ** 2).sum(-1)
    two = np.argsort(distance, 0)[:2]
    numbers, squares = np.take_along_axis(near, two, 0), np.take_along_axis(distance, two, 0)
    gap = np.linalg.norm(seeds[numbers[0]] - seeds[numbers[1]], axis=-1)
    return ((squares[1] - squares[0]) / (2 * gap)).astype(np.float32), numbers[0].astype(np.int32)


def shards(size: int, rng: np.random.Generator, cell: int) -> tuple[Field, Int32[np.ndarray, "n n"]]:
    """Returns irregular cells about `cell` pixels of the canvas wide: distances to their edges, and their numbers."""
    edges, numbers = _shard_sheet(cell)
    window = _window(size, rng)
    return edges[window], numbers[window]
