"""Techniques that print or rule: halftone screens, hatching, and lines that echo the outline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rdm_jax.data.style_scenes.random_styles.painting import (
    SIDE,
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
from rdm_jax.data.style_scenes.styles.brush import grid, noise


@dataclass(frozen=True)
class Inks:
    """Two tones of each color: what is printed, and what it is printed on.

    Attributes:
      paper: the fraction of white in what lies below.
      depth: the fraction of black in the ink, or if negative of white, for chalk.
      cover: how much of the paper the ink covers at full darkness.
      least: how much it covers everywhere.
    """

    paper: float
    depth: float
    cover: float
    least: float

    @staticmethod
    def sample(rng: Random) -> Inks:
        """Returns random inks: mostly dark ones on lighter paper."""
        if rng.random() < 0.2:
            return Inks(rng.uniform(-0.25, 0.0), -rng.uniform(0.3, 0.6), rng.uniform(0.2, 0.5), rng.uniform(0.1, 0.25))
        return Inks(rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.6), rng.uniform(0.5, 0.9), rng.uniform(0.05, 0.2))

    def printed(self, painting: Painting, canvas: Canvas, region: Region, screen: Plane) -> Canvas:
        """Returns the canvas with ink where the screen, in [0, 1], is below the covered share."""
        share = np.float32(self.least) + np.float32(self.cover) * painting.darkness
        ink, paper = lighter(painting.flat, -self.depth), lighter(painting.flat, self.paper)
        return where(region, where(screen < share, ink, paper), canvas)


def _across(angle: float, period: float) -> Plane:
    """Returns the place of each pixel along a direction, in periods given in image pixels."""
    x, y = grid(SIDE)
    return (x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))) / np.float32(period)


def _triangle(phase: Plane) -> Plane:
    """Returns a triangle wave: 0 at whole numbers, 1 half-way between."""
    return np.abs(phase - np.round(phase)) * np.float32(2)


@dataclass(frozen=True)
class Halftone:
    """A printer's screen.

    Attributes:
      inks: what is printed.
      kind: "dots", "lines" or "crosses".
      angle, period: of the screen; radians and image pixels.
    """

    inks: Inks
    kind: str
    angle: float
    period: float

    @staticmethod
    def sample(rng: Random) -> Halftone:
        """Returns a random screen."""
        return Halftone(
            Inks.sample(rng),
            pick(rng, ("dots", "dots", "lines", "crosses")),
            rng.uniform(0, math.pi),
            log_uniform(rng, 2.6, 6.0),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        return f"{'coarse' if self.period > 4.4 else 'fine'} halftone {self.kind}"

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region printed."""
        start = np.float32(painting.rng.uniform(0, 1))
        first = _across(self.angle, self.period) + start
        second = _across(self.angle + math.pi / 2, self.period) + start
        if self.kind == "lines":
            return self.inks.printed(painting, canvas, region, _triangle(first))
        if self.kind == "crosses":
            return self.inks.printed(
                painting, canvas, region, np.minimum(_triangle(first), _triangle(second)) * np.float32(1.8)
            )
        turn = np.float32(2 * math.pi)
        dots = np.float32(0.5) - np.float32(0.25) * (np.cos(turn * first) + np.cos(turn * second))
        return self.inks.printed(painting, canvas, region, dots)


@dataclass(frozen=True)
class Hatch:
    """Ruled or freehand lines that get broader, or crossed, where the image is darker.

    Attributes:
      inks: what is drawn.
      angle, period: of the lines; radians and image pixels.
      waver: how far a line strays, in periods.
      cell: the size of its turns, in canvas pixels.
      crossing: the angle of the second set of lines, in radians; 0 for none.
      curved: whether the lines follow the outline of the subject.
    """

    inks: Inks
    angle: float
    period: float
    waver: float
    cell: float
    crossing: float
    curved: bool

    @staticmethod
    def sample(rng: Random) -> Hatch:
        """Returns random hatching."""
        return Hatch(
            inks=Inks.sample(rng),
            angle=rng.uniform(0, math.pi),
            period=log_uniform(rng, 2.4, 5.5),
            waver=pick(rng, (0.0, 0.15, 0.4)),
            cell=pick(rng, (12.0, 20.0, 40.0)),
            crossing=pick(rng, (0.0, 0.0, float(rng.uniform(0.6, 1.6)))),
            curved=bool(rng.random() < 0.3),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        hand = "freehand" if self.waver > 0.2 else "ruled"
        return (
            f"{hand} {'crosshatching' if self.crossing else 'lines along the outline' if self.curved else 'hatching'}"
        )

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region hatched."""
        stray = np.float32(painting.rng.uniform(0, 1)) + np.float32(self.waver) * noise(SIDE, painting.rng, self.cell)
        along = painting.rising * np.float32(26 / self.period) if self.curved else _across(self.angle, self.period)
        screen = _triangle(along + stray)
        if self.crossing:
            second = _triangle(_across(self.angle + self.crossing, self.period) + stray)
            # The second set of lines is thinner and stands in dark places alone.
            screen = np.minimum(screen, second + np.float32(0.35))
        return self.inks.printed(painting, canvas, region, screen)
