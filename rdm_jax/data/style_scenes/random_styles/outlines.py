"""Edges and outlines: how the shapes of a random style are warped and cut, and the lines drawn around them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from rdm_jax.data.style_scenes.layout import Layout
from rdm_jax.data.style_scenes.random_styles.painting import (
    SIDE,
    UNIT,
    Canvas,
    Painting,
    Random,
    lighter,
    log_uniform,
    moved,
    pick,
    softened,
)
from rdm_jax.data.style_scenes.shapes import Points, Role
from rdm_jax.data.style_scenes.styles.brush import Labels, contours, fill, noise, rgb

SHARP = 0.75
"""The cosine of the turn below which a corner is kept when shapes are cut: an ear, not a point of a curve."""

INKS = ("black", "brown", "white", "own dark", "own light", "colored")

DARK_INKS = ("black", "brown", "own dark", "colored")
"""Inks that are dark on a light ground."""


@dataclass(frozen=True)
class Edges:
    """How shapes are warped and cut.

    Attributes:
      step: only every so-manieth corner of a curve is kept: 1 for round shapes, more for shapes cut with straight cuts.
      warp, cell: how far the edges wander, in image pixels (standard deviation), and the size of the turns.
      rag: the same on a small scale, as of torn paper or a dry brush.
      soft: the blur of the colors before anything is painted, in image pixels.
    """

    step: int
    warp: float
    cell: float
    rag: float
    soft: float

    @staticmethod
    def sample(rng: Random) -> Edges:
        """Returns random edges: exact in a third of the cases."""
        if rng.random() < 0.34:
            return Edges(1, 0.0, 24.0, 0.0, 0.0)
        return Edges(
            step=pick(rng, (1, 2, 3), (0.7, 0.15, 0.15)),
            warp=pick(rng, (0.0, float(rng.uniform(0.3, 1.3)))),
            cell=pick(rng, (16.0, 24.0, 40.0)),
            rag=pick(rng, (0.0, 0.0, float(rng.uniform(0.2, 0.6)))),
            soft=pick(rng, (0.0, 0.0, 0.0, float(rng.uniform(0.5, 1.3)))),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        if self.rag:
            return "ragged edges"
        if self.soft:
            return "soft edges"
        return "cut edges" if self.step > 1 else "wobbly edges" if self.warp > 0.6 else "clean edges"

    def cut(self, layout: Layout) -> Layout:
        """Returns the layout with fewer corners on curves; small parts and strokes keep theirs."""
        if self.step == 1:
            return layout
        small = (Role.INK, Role.WHITE)
        return tuple(
            part if part.width or part.role in small else replace(part, points=self._cut(part.points))
            for part in layout
        )

    def _cut(self, points: Points) -> Points:
        before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
        cosine = (before * after).sum(1) / (np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1) + 1e-9)
        return points[(cosine < SHARP) | (np.arange(len(points)) % self.step == 0)]

    def sway(self, labels: Labels, rng: Random) -> Labels:
        """Returns a label map, or a map of contours, with its edges moved at random."""
        if not self.warp and not self.rag:
            return labels
        dx, dy = (np.float32(self.warp * UNIT) * noise(SIDE, rng, self.cell) for _ in range(2))
        if self.rag:
            dx, dy = (d + np.float32(self.rag * UNIT) * noise(SIDE, rng, 5.0) for d in (dx, dy))
        return moved(labels, dx, dy)


@dataclass(frozen=True)
class Outline:
    """The lines drawn around the parts.

    Attributes:
      width: in image pixels; 0 for no lines.
      ink: one of `INKS`.
      color: the color of colored ink, in [0, 255].
      broken: the fraction of a line that is missing, as of a dry brush.
      shift: (x, y) by which the lines miss the colors, in image pixels.
      glow: the radius of a glow around the lines, in image pixels.
      opacity: in [0, 1].
    """

    width: float
    ink: str
    color: tuple[float, float, float]
    broken: float
    shift: tuple[float, float]
    glow: float
    opacity: float

    @staticmethod
    def sample(rng: Random, dark: bool) -> Outline:
        """Returns random lines, or none in two cases of five; white, light and glowing ones mostly on a dark ground."""
        weights = (0.05, 0.03, 0.3, 0.04, 0.34, 0.24) if dark else (0.28, 0.14, 0.07, 0.36, 0.05, 0.1)
        slip = rng.uniform(0.6, 1.8), rng.uniform(0, 2 * math.pi)
        shifted = rng.random() < 0.18
        glowing = dark and rng.random() < 0.3
        return Outline(
            width=0.0 if rng.random() < 0.4 else log_uniform(rng, 0.7, 3.0),
            ink=pick(rng, INKS, weights),
            color=_ink(rng, dark),
            broken=pick(rng, (0.0, 0.0, float(rng.uniform(0.15, 0.4)))),
            shift=(slip[0] * math.cos(slip[1]), slip[0] * math.sin(slip[1])) if shifted else (0.0, 0.0),
            glow=rng.uniform(1.2, 3.5) if glowing else 0.0,
            opacity=rng.uniform(0.75, 1.0),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        if not self.width:
            return "no outline"
        thickness = "thin" if self.width < 1.2 else "thick" if self.width > 2.1 else ""
        kind = "glowing" if self.glow else "broken" if self.broken else ""
        return " ".join(word for word in (thickness, kind, self.ink, "outline") if word)

    def draw(self, painting: Painting, layout: Layout, edges: Edges, canvas: Canvas) -> Canvas:
        """Returns the canvas with the lines drawn over it."""
        if not self.width:
            return canvas
        lines = edges.sway(contours(layout, SIDE, self.width), painting.rng)
        if any(self.shift):
            lines = moved(lines, -self.shift[0] * UNIT, -self.shift[1] * UNIT)
        drawn = (lines > 0).astype(np.float32)
        if self.broken:
            gaps = noise(SIDE, painting.rng, 5.0) * np.float32(0.6) + noise(SIDE, painting.rng, 16.0)
            drawn *= gaps > np.float32(-1.9 + 3.2 * self.broken)
        ink = fill(lines, np.concatenate([np.zeros((1, 3), np.float32), self._inks(painting)])).astype(np.float32)
        if self.glow:
            lit = softened(ink * drawn[..., None], self.glow * UNIT) * np.float32(1.3)
            canvas = 255 - (255 - canvas) * (255 - np.minimum(lit, 255)) / np.float32(255)
        share = (drawn * np.float32(self.opacity))[..., None]
        return canvas + (ink - canvas) * share

    def _inks(self, painting: Painting) -> Float32[np.ndarray, "_ 3"]:
        """Returns the color of the line around each role."""
        if self.ink.startswith("own"):
            return lighter(painting.colors, -0.6 if self.ink.endswith("dark") else 0.5)
        color = {"black": (22, 20, 24), "brown": (74, 46, 30), "white": (250, 250, 246)}.get(self.ink, self.color)
        return np.repeat(rgb(*color)[None], len(Role), 0)


def _ink(rng: Random, dark: bool) -> tuple[float, float, float]:
    """Returns the color of an ink: light for a dark ground; otherwise dark wine, green, teal or rust, never indigo."""
    if not dark:
        return pick(rng, ((83.0, 16.0, 40.0), (20.0, 59.0, 36.0), (13.0, 67.0, 70.0), (99.0, 45.0, 13.0)))
    first, second, third = rng.permutation([255.0, rng.uniform(150, 255), rng.uniform(60, 200)]).tolist()
    return first, second, third
