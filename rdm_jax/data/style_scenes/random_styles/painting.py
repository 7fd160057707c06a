"""One image in the making: what every technique of the random styles reads, and the operations they share."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped
from PIL import Image, ImageFilter

from rdm_jax.data.style_scenes.shapes import Role
from rdm_jax.data.style_scenes.styles.brush import MEDIUM, WHITE, Labels, Palette, fill, mix
from rdm_jax.data.style_scenes.vocabulary import SIZE

SIDE = MEDIUM
"""Side of the canvas in pixels."""

UNIT = SIDE // SIZE
"""Pixels of the canvas to one of the image."""

Canvas: TypeAlias = Float32[np.ndarray, "192 192 3"]
Plane: TypeAlias = Float32[np.ndarray, "192 192"]
Region: TypeAlias = Bool[np.ndarray, "192 192"]
Random: TypeAlias = np.random.Generator

T = TypeVar("T")

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


@runtime_checkable
class Technique(Protocol):
    """A way to paint: a frozen dataclass of its parameters."""

    @property
    def words(self) -> str:
        """What a person calls it."""
        ...

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region painted; strokes may reach over its edge."""
        ...


@dataclass(frozen=True)
class Painting:
    """One image in the making.

    Attributes:
      labels: the role at each pixel of the canvas.
      colors: the color of each role.
      rng: the randomness of the image; that of the style is in the technique's parameters.
    """

    labels: Labels
    colors: Palette
    rng: Random

    @functools.cached_property
    def flat(self) -> Canvas:
        """Each role in its color."""
        return fill(self.labels, self.colors).astype(np.float32)

    @functools.cached_property
    def subject(self) -> Region:
        """Where the subject is."""
        return self.labels > Role.FLOOR

    @functools.cached_property
    def darkness(self) -> Plane:
        """How dark the color at each pixel is, 0 for white and 1 for black."""
        return np.take(1 - luminance(self.colors) / np.float32(255), self.labels)

    @functools.cached_property
    def rising(self) -> Plane:
        """The subject's mask, softened: its level lines follow the outline, in [0, 1]."""
        return softened(np.where(self.subject, np.float32(255), np.float32(0)), 3.0 * UNIT) / np.float32(255)


def pick(rng: Random, choices: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """Returns one of the choices at random."""
    if weights is None:
        return choices[int(rng.integers(len(choices)))]
    edges = np.cumsum(weights)
    return choices[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def log_uniform(rng: Random, low: float, high: float) -> float:
    """Returns a number in [low, high] whose logarithm is uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def luminance(colors: Float32[np.ndarray, "*n 3"]) -> Float32[np.ndarray, "*n"]:
    """Returns the luminance (ITU-R BT.601) of colors, in their own range."""
    return np.asarray(colors @ _LUMINANCE)


def lighter(colors: Float32[np.ndarray, "*n 3"], share: float) -> Float32[np.ndarray, "*n 3"]:
    """Returns colors mixed with white, or for a negative share with black."""
    return mix(colors, WHITE if share > 0 else np.zeros(3, np.float32), abs(share))


def softened(canvas: Shaped[np.ndarray, "n n *c"], radius: float) -> Float32[np.ndarray, "n n *c"]:
    """Returns a canvas with values in [0, 255] under a Gaussian blur of the radius given, in its pixels."""
    clipped = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    return np.asarray(clipped.filter(ImageFilter.GaussianBlur(radius)), np.float32)


def where(region: Region, painted: Canvas, canvas: Canvas) -> Canvas:
    """Returns the painted canvas in the region and the other one elsewhere."""
    return np.where(region[..., None], painted, canvas)


def moved(plane: Shaped[np.ndarray, "n n"], dx: Plane | float, dy: Plane | float) -> Shaped[np.ndarray, "n n"]:
    """Returns a plane whose value at (x, y) is taken from (x + dx, y + dy), in canvas pixels."""
    line = np.arange(SIDE, dtype=np.float32)
    x = np.clip(line[None] + dx, 0, SIDE - 1).astype(np.intp)
    y = np.clip(line[:, None] + dy, 0, SIDE - 1).astype(np.intp)
    return plane[y, x]


def scattered(rng: Random, kind: str, period: float, jitter: float) -> Float[np.ndarray, "n 2"]:
    """Returns points (x, y) in canvas pixels that cover the canvas.

    Args:
      rng: moves the whole grid, and each point.
      kind: "hexagonal" or "square" grid.
      period: the distance of neighbors, in canvas pixels.
      jitter: the furthest that a point is moved along an axis, in periods.
    """
    rise = period * (0.866 if kind == "hexagonal" else 1.0)
    row, column = np.meshgrid(np.arange(-1, SIDE / rise + 1), np.arange(-1, SIDE / period + 2), indexing="ij")
    shift = 0.5 * (row % 2) if kind == "hexagonal" else 0.0
    points = np.stack([(column + shift) * period, row * rise], -1).reshape(-1, 2) - rng.uniform(0, period, 2)
    return points + rng.uniform(-jitter, jitter, points.shape) * period


def pixel_of(points: Float[np.ndarray, "n 2"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Returns the row and the column of the pixel nearest to each point."""
    place = np.clip(points, 0, SIDE - 1).astype(np.intp)
    return place[:, 1], place[:, 0]


def varied(rng: Random, colors: Float32[np.ndarray, "n 3"], light: float, hue: float) -> Float32[np.ndarray, "n 3"]:
    """Returns colors, each moved at random: `light` in brightness and `hue` in each channel (standard deviations)."""
    change = rng.normal(size=(len(colors), 1)) * light + rng.normal(size=colors.shape) * hue
    return np.clip(colors + change, 0, 255).astype(np.float32)
