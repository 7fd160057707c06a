"""Techniques that put an image together of pieces: tiles, shards, beads, and stitches or woven threads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from rdm_jax.data.style_scenes.random_styles.painting import (
    SIDE,
    UNIT,
    Canvas,
    Painting,
    Plane,
    Random,
    Region,
    lighter,
    log_uniform,
    pick,
    where,
)
from rdm_jax.data.style_scenes.styles.brush import grid, shards

GRIDS = ("square", "brick", "long brick", "lozenge", "shard")


@dataclass(frozen=True)
class Cells:
    """A division of the canvas.

    Attributes:
      number: the cell that each pixel is in, from 0.
      x, y: the place within the cell, about -0.5 to 0.5.
      edge: the distance to the cell's edge, in image pixels.
    """

    number: Int[np.ndarray, "192 192"]
    x: Plane
    y: Plane
    edge: Plane

    def mean(self, canvas: Canvas) -> Canvas:
        """Returns each cell in the mean color of its pixels."""
        number = self.number.ravel()
        count = np.maximum(np.bincount(number), 1)
        sums = [np.bincount(number, canvas[..., channel].ravel()) / count for channel in range(3)]
        return np.stack(sums, -1).astype(np.float32)[self.number]

    def each(self, values: Float32[np.ndarray, "1024"]) -> Plane:
        """Returns a value for each cell."""
        return np.take(values, self.number % 1024)


def divide(kind: str, period: float, angle: float, rng: Random) -> Cells:
    """Returns the canvas divided into cells.

    Args:
      kind: one of `GRIDS`.
      period: the size of a cell, in image pixels.
      angle: how far the grid is turned, in radians; shards have no direction.
      rng: moves the grid.
    """
    if kind == "shard":
        edge, number = shards(SIDE, rng, round(period * UNIT))
        flat = np.zeros((SIDE, SIDE), np.float32)
        return Cells(number.astype(np.int64), flat, flat, edge / np.float32(UNIT))
    x, y = grid(SIDE)
    c, s = np.float32(math.cos(angle) / period), np.float32(math.sin(angle) / period)
    start = rng.uniform(0, 1, 2).astype(np.float32)
    u, v = x * c + y * s + start[0], y * c - x * s + start[1]
    if kind == "lozenge":
        u, v = u + v * np.float32(0.6), v - u * np.float32(0.6)
    wide = np.float32(2.2) if kind == "long brick" else np.float32(1)
    row = np.floor(v)
    u = u / wide + (row * np.float32(0.5) if kind.endswith("brick") else np.float32(0))
    column = np.floor(u)
    inside = u - column - np.float32(0.5), v - row - np.float32(0.5)
    edge = np.minimum((np.float32(0.5) - np.abs(inside[0])) * wide, np.float32(0.5) - np.abs(inside[1]))
    low_row, low_column = int(row.min()), int(column.min())
    columns = int(column.max() - low_column + 1) | 1  # odd: numbers are even and odd by turns, as on a chessboard
    number = (row - low_row).astype(np.int64) * columns + (column - low_column).astype(np.int64)
    return Cells(number, *inside, edge * np.float32(period))


@dataclass(frozen=True)
class Pieces:
    """Tiles, shards or beads with gaps between them.

    Attributes:
      kind, period, angle: of the grid.
      whole: whether a piece has one color; otherwise it is cut along the outlines.
      bead: whether pieces are round.
      gap: the width between two pieces, in image pixels.
      gap_tone: what is seen there: a fraction of white, or if negative of black, in the color of the piece.
      light, hue: how the colors of pieces vary.
      bevel: how much lighter one side of a piece is than the other.
    """

    kind: str
    period: float
    angle: float
    whole: bool
    bead: bool
    gap: float
    gap_tone: float
    light: float
    hue: float
    bevel: float

    @staticmethod
    def sample(rng: Random) -> Pieces:
        """Returns random pieces: small where they have one color, so that the subject can be seen."""
        kind = pick(rng, GRIDS, (0.3, 0.15, 0.15, 0.1, 0.3))
        whole = bool(rng.random() < 0.45)
        low, high = (2.4, 4.4) if whole else (4.0, 13.0)
        return Pieces(
            kind=kind,
            period=log_uniform(rng, low, high)
            if kind != "shard"
            else pick(rng, (3.0, 4.0) if whole else (5.0, 7.0, 10.0)),
            angle=pick(rng, (0.0, float(rng.uniform(0, math.pi)))),
            whole=whole,
            bead=kind in ("square", "brick") and bool(rng.random() < 0.3),
            gap=pick(rng, (0.0, float(rng.uniform(0.4, 1.2)))),
            gap_tone=pick(rng, (-0.6, -0.35, 0.5)),
            light=rng.uniform(2, 22),
            hue=rng.uniform(1, 12),
            bevel=pick(rng, (0.0, float(rng.uniform(15, 45)))),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        size = "small" if self.period < 4 else "large" if self.period > 8 else ""
        return " ".join(word for word in (size, self.kind, "beads" if self.bead else "pieces") if word)

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region put together of pieces."""
        rng = painting.rng
        cells = divide(self.kind, self.period, self.angle, rng)
        color = cells.mean(painting.flat) if self.whole else painting.flat
        change = rng.normal(size=(1024, 1)) * self.light + rng.normal(size=(1024, 3)) * self.hue
        image = color + change.astype(np.float32)[cells.number % 1024]
        image += ((cells.x + cells.y) * np.float32(self.bevel))[..., None]
        gap = np.hypot(cells.x, cells.y) > 0.44 if self.bead else cells.edge * 2 < self.gap
        return where(region, where(gap, lighter(color, self.gap_tone), image), canvas)


@dataclass(frozen=True)
class Threads:
    """Stitches or woven threads.

    Attributes:
      kind: "cross stitch", "knitting", "basket weave" or "satin stitch".
      period: the size of a stitch, in image pixels.
      angle: how far the cloth is turned, in radians.
      light, dark: the fractions of white and of black in the highest and the lowest thread.
      change: how the brightness of stitches varies.
    """

    kind: str
    period: float
    angle: float
    light: float
    dark: float
    change: float

    @staticmethod
    def sample(rng: Random) -> Threads:
        """Returns random stitches."""
        return Threads(
            kind=pick(rng, ("cross stitch", "knitting", "basket weave", "satin stitch")),
            period=log_uniform(rng, 3.2, 6.5),
            angle=pick(rng, (0.0, float(rng.uniform(-0.5, 0.5)))),
            light=rng.uniform(0.08, 0.35),
            dark=rng.uniform(0.2, 0.5),
            change=rng.uniform(0, 10),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        return f"{'fine' if self.period < 4.4 else 'coarse'} {self.kind}"

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region stitched or woven."""
        cells = divide("square", self.period, self.angle, painting.rng)
        height = self._height(cells)[..., None]
        low, high = lighter(painting.flat, -self.dark), lighter(painting.flat, self.light)
        change = (painting.rng.normal(size=1024) * self.change).astype(np.float32)
        return where(region, low + (high - low) * height + cells.each(change)[..., None], canvas)

    def _height(self, cells: Cells) -> Plane:
        """Returns how high the thread lies at each pixel, in [0, 1]."""
        x, y = cells.x, cells.y
        if self.kind == "cross stitch":
            upper, lower = np.abs(x + y) < 0.22, np.abs(x - y) < 0.22
            return np.where(upper, np.float32(1), np.where(lower, np.float32(0.7), np.float32(0.1)))
        if self.kind == "knitting":
            v = (y + np.abs(x) * np.float32(1.1)) * np.float32(2 * math.pi)
            return np.clip(np.float32(0.55) + np.float32(0.45) * np.cos(v), 0, 1) * (np.abs(x) > 0.06)
        if self.kind == "satin stitch":
            return np.float32(0.5) + np.float32(0.5) * np.cos((x + y) * np.float32(4 * math.pi))
        over = cells.number % 2 == 1
        return np.cos(np.where(over, x, y) * np.float32(math.pi))
