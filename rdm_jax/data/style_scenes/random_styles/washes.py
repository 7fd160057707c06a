"""Techniques that lay color on as a surface: flat color, gradients, washes, sponging and streaks of a dry brush."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rdm_jax.data.style_scenes.random_styles.flow import Flow
from rdm_jax.data.style_scenes.random_styles.painting import (
    SIDE,
    UNIT,
    Canvas,
    Painting,
    Plane,
    Random,
    Region,
    lighter,
    moved,
    pick,
    softened,
    where,
)
from rdm_jax.data.style_scenes.styles.brush import grid, noise
from rdm_jax.data.style_scenes.vocabulary import SIZE


@dataclass(frozen=True)
class Flat:
    """Even color, or a gradient across the image.

    Attributes:
      angle: the direction in which it gets lighter, in radians.
      strength: how much: the fraction of white at one end and of black at the other.
    """

    angle: float
    strength: float

    @staticmethod
    def sample(rng: Random) -> Flat:
        """Returns even color in half of the cases, otherwise a gradient."""
        return Flat(rng.uniform(0, 2 * math.pi), pick(rng, (0.0, float(rng.uniform(0.15, 0.4)))))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "gradients" if self.strength else "flat color"

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region in its colors."""
        if not self.strength:
            return where(region, painting.flat, canvas)
        x, y = grid(SIDE)
        along = (x - SIZE / 2) * np.float32(math.cos(self.angle)) + (y - SIZE / 2) * np.float32(math.sin(self.angle))
        share = np.clip(along / np.float32(SIZE / 2), -1, 1)[..., None] * np.float32(self.strength)
        end = np.where(share > 0, np.float32(255), np.float32(0))
        return where(region, painting.flat + (end - painting.flat) * np.abs(share), canvas)


@dataclass(frozen=True)
class Wash:
    """Thin color whose density wanders, with pigment gathered at the edges or color running over them.

    Attributes:
      cloud: the standard deviation of the density.
      cell: the size of its clouds, in canvas pixels.
      rim: how much denser the edges are.
      bleed: how far the colors run, in image pixels.
      thin: the fraction of the paper's white.
    """

    cloud: float
    cell: float
    rim: float
    bleed: float
    thin: float

    @staticmethod
    def sample(rng: Random) -> Wash:
        """Returns a random wash."""
        return Wash(
            cloud=rng.uniform(0.06, 0.26),
            cell=pick(rng, (12.0, 20.0, 32.0, 48.0)),
            rim=pick(rng, (0.0, 0.6, 1.2)),
            bleed=pick(rng, (0.0, 0.6, 1.2)),
            thin=rng.uniform(0.0, 0.25),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "bleeding washes" if self.bleed else "cloudy washes" if self.cloud > 0.15 else "thin washes"

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region washed."""
        color = lighter(painting.flat, self.thin)
        if self.bleed:
            color = softened(color, self.bleed * UNIT)
        density = 1 + np.float32(self.cloud) * noise(SIDE, painting.rng, self.cell)
        if self.rim:
            inside = np.where(painting.subject, painting.rising, 1 - painting.rising)
            density += np.float32(self.rim) * np.clip(np.float32(0.75) - inside, 0, 1) * painting.subject
        density = np.clip(density, 0.55, 1.9)[..., None]
        return where(region, 255 - (255 - color) * density, canvas)


@dataclass(frozen=True)
class Sponge:
    """Blotches of two tones of each color.

    Attributes:
      cell: their size across and down, in canvas pixels.
      sharp: how hard their edges are; large is hard.
      light, dark: the fractions of white and of black in the two tones.
    """

    cell: tuple[float, float]
    sharp: float
    light: float
    dark: float

    @staticmethod
    def sample(rng: Random) -> Sponge:
        """Returns random blotches; long ones stand upright, as those of a wood's grain would lie."""
        cell = pick(rng, ((5.0, 5.0), (8.0, 8.0), (12.0, 12.0), (20.0, 20.0), (5.0, 20.0), (6.0, 40.0)))
        return Sponge(cell, pick(rng, (0.5, 1.5, 6.0)), rng.uniform(0.08, 0.4), rng.uniform(0.08, 0.35))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return f"{'hard' if self.sharp > 3 else 'soft'} sponging"

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region sponged."""
        share = np.clip(noise(SIDE, painting.rng, *self.cell) * np.float32(self.sharp) + np.float32(0.5), 0, 1)[
            ..., None
        ]
        low, high = lighter(painting.flat, -self.dark), lighter(painting.flat, self.light)
        return where(region, low + (high - low) * share, canvas)


@dataclass(frozen=True)
class Streaks:
    """The streaks that a dry brush leaves along a field of directions.

    Attributes:
      flow: the directions.
      reach: half the length of a streak, in image pixels.
      contrast: the standard deviation of the brightness.
      bare: the fraction of white, or if negative of black, in the deepest grooves.
    """

    flow: Flow
    reach: float
    contrast: float
    bare: float

    @staticmethod
    def sample(rng: Random) -> Streaks:
        """Returns random streaks."""
        return Streaks(Flow.sample(rng), rng.uniform(2, 7), rng.uniform(8, 30), pick(rng, (0.0, 0.6, -0.5)))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return f"dry brush {self.flow.kind}"

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region brushed."""
        streaks = self._streaks(painting)
        image = painting.flat + (np.float32(self.contrast) * streaks)[..., None]
        if self.bare:
            groove = np.clip(streaks - np.float32(1.0), 0, 1)[..., None]
            image = image + (lighter(painting.flat, self.bare) - image) * groove
        return where(region, image, canvas)

    def _streaks(self, painting: Painting) -> Plane:
        """Returns noise averaged along the directions (line integral convolution), of unit variance."""
        angles = self.flow.angles(painting)
        dx, dy = np.cos(angles), np.sin(angles)
        grain = noise(SIDE, painting.rng, 3.0)
        steps = np.linspace(-self.reach * UNIT, self.reach * UNIT, 9, dtype=np.float32)
        total = np.sum([moved(grain, dx * step, dy * step) for step in steps], axis=0, dtype=np.float32)
        return (total / total.std()).astype(np.float32)
