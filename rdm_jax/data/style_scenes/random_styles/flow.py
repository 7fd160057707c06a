"""Fields of directions that strokes and streaks follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rdm_jax.data.style_scenes.random_styles.painting import SIDE, UNIT, Painting, Plane, Random, pick
from rdm_jax.data.style_scenes.styles.brush import grid, noise
from rdm_jax.data.style_scenes.vocabulary import SIZE

KINDS = ("straight", "wavy", "swirling", "along the outline", "across the outline")


@dataclass(frozen=True)
class Flow:
    """A field of directions.

    Attributes:
      kind: one of `KINDS`.
      angle: its main direction in radians.
      sway: how far it turns from there, in radians.
      cell: the size of its turns, in canvas pixels.
      center: (x, y) of a swirl, in image pixels.
    """

    kind: str
    angle: float
    sway: float
    cell: float
    center: tuple[float, float]

    @staticmethod
    def sample(rng: Random) -> Flow:
        """Returns a random field."""
        kind = pick(rng, KINDS, (0.34, 0.2, 0.14, 0.24, 0.08))
        center = float(rng.uniform(8, 56)), float(rng.uniform(8, 56))
        return Flow(kind, rng.uniform(0, math.pi), rng.uniform(0.4, 1.6), pick(rng, (24.0, 40.0, 64.0)), center)

    def angles(self, painting: Painting) -> Plane:
        """Returns the direction at each pixel of the canvas, in radians."""
        if self.kind == "straight":
            return np.full((SIDE, SIDE), self.angle, np.float32)
        if self.kind == "wavy":
            return np.float32(self.angle) + np.float32(self.sway) * noise(SIDE, painting.rng, self.cell)
        if self.kind == "swirling":
            x, y = grid(SIDE)
            dx, dy = x - np.float32(self.center[0]), y - np.float32(self.center[1])
            turn = np.float32(math.pi / 2 + 0.3 * self.sway)
            return np.arctan2(dy, dx) + turn + np.float32(self.sway * 0.3) * np.sin(np.hypot(dx, dy) / np.float32(9))
        down, right = np.gradient(painting.rising * np.float32(UNIT * SIZE / 8))
        along = (-down, right) if self.kind == "along the outline" else (right, down)
        # Far from the outline, where nothing rises, the main direction decides.
        return np.arctan2(
            along[1] + np.float32(0.02 * math.sin(self.angle)), along[0] + np.float32(0.02 * math.cos(self.angle))
        )
