"""Effects of what an image is painted on and with: paper, canvas, wood, and thick paint."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from rdm_jax.data.style_scenes.random_styles.painting import SIDE, Canvas, Painting, Plane, Random, luminance, pick
from rdm_jax.data.style_scenes.styles.brush import grid, noise


@dataclass(frozen=True)
class Grain:
    """Uneven paper or film.

    Attributes:
      strength: the standard deviation of the brightness.
      cell: the size of the grains across and down, in canvas pixels.
    """

    strength: float
    cell: tuple[float, float]

    @staticmethod
    def sample(rng: Random) -> Grain:
        """Returns random grain."""
        return Grain(rng.uniform(5, 18), pick(rng, ((3.0, 3.0), (5.0, 5.0), (8.0, 8.0), (3.0, 12.0))))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "grainy paper"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas with grain."""
        return canvas + (np.float32(self.strength) * noise(SIDE, painting.rng, *self.cell))[..., None]


@functools.lru_cache(maxsize=64)
def _woven(period: float) -> Plane:
    x, y = grid(SIDE)
    turn = np.float32(math.pi / period)
    return (np.sin(x * turn) * np.sin(y * turn)).astype(np.float32)


@dataclass(frozen=True)
class Weave:
    """The threads of a painter's canvas.

    Attributes:
      period: of the threads, in image pixels.
      strength: of the brightness.
    """

    period: float
    strength: float

    @staticmethod
    def sample(rng: Random) -> Weave:
        """Returns random canvas."""
        return Weave(pick(rng, (1.5, 2.0, 2.5, 3.0)), rng.uniform(8, 24))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "canvas texture"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas with threads."""
        return canvas + (np.float32(self.strength) * _woven(self.period))[..., None]


@dataclass(frozen=True)
class Laid:
    """The lines of laid paper, or the grain of wood.

    Attributes:
      angle: in radians.
      period: in image pixels.
      strength: of the brightness.
      waver: how far the lines stray, in periods, as those of wood's grain.
    """

    angle: float
    period: float
    strength: float
    waver: float

    @staticmethod
    def sample(rng: Random) -> Laid:
        """Returns random lines: upright in half of the cases."""
        angle = pick(rng, (0.0, float(rng.uniform(-math.pi / 2, math.pi / 2))))
        return Laid(angle, rng.uniform(2.2, 5.5), rng.uniform(5, 16), pick(rng, (0.0, float(rng.uniform(0.3, 0.7)))))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "wood grain" if self.waver else "laid paper"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas with lines."""
        x, y = grid(SIDE)
        phase = (x * np.float32(math.cos(self.angle)) + y * np.float32(math.sin(self.angle))) / np.float32(self.period)
        if self.waver:
            phase = phase + np.float32(self.waver) * noise(SIDE, painting.rng, 40.0, 24.0)
        return canvas + (np.float32(self.strength) * np.sin(phase * np.float32(2 * math.pi)))[..., None]


@dataclass(frozen=True)
class Relief:
    """Thick paint in light from one side.

    Attributes:
      shift: (down, right) towards the shadow, in canvas pixels.
      strength: relative to the differences of brightness.
    """

    shift: tuple[int, int]
    strength: float

    @staticmethod
    def sample(rng: Random) -> Relief:
        """Returns random relief."""
        return Relief(pick(rng, ((2, 2), (2, -2), (3, 1), (1, 3))), rng.uniform(0.25, 0.7))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "thick paint"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas with lit and shaded edges of the paint."""
        height = luminance(canvas)
        slope = height - np.roll(height, self.shift, (0, 1))
        return canvas + (np.clip(slope, -70, 70) * np.float32(self.strength))[..., None]
