"""Techniques that set marks one by one: brush strokes, dabs and dots, and stippling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image, ImageDraw

from rdm_jax.data.style_scenes.random_styles.flow import Flow
from rdm_jax.data.style_scenes.random_styles.painting import (
    UNIT,
    Canvas,
    Painting,
    Random,
    Region,
    lighter,
    log_uniform,
    pick,
    pixel_of,
    scattered,
    varied,
    where,
)

_PROFILES = {
    "flat": (1.0, 1.0, 1.0, 1.0, 1.0),
    "pointed": (0.1, 0.85, 1.0, 0.7, 0.1),
    "tapering": (1.0, 0.9, 0.7, 0.45, 0.1),
    "round": (0.55, 0.95, 1.0, 0.95, 0.55),
}
"""The width of a stroke at five points along it, in its greatest width."""


def _draw_polygons(canvas: Canvas, outlines: Float[np.ndarray, "n k 2"], colors: Float32[np.ndarray, "n 3"]) -> Canvas:
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    corners = outlines.reshape(len(outlines), -1).tolist()
    for corner, color in zip(corners, colors.astype(np.int64).tolist(), strict=True):
        pen.polygon(corner, tuple(color))
    return np.asarray(image, np.float32)


@dataclass(frozen=True)
class Strokes:
    """Brush strokes along a field of directions, coarse ones first.

    Attributes:
      flow: the directions.
      profile: the shape of a stroke.
      width: of the last layer's strokes, in image pixels.
      slender: length by width.
      curl: how far a stroke turns from its middle to its end, in radians.
      wander: the standard deviation of the directions, in radians.
      light, hue: how the colors vary.
      layers: how many, each finer than the one before.
      under: what the canvas between the strokes is: a fraction of white, or if negative of black.
    """

    flow: Flow
    profile: str
    width: float
    slender: float
    curl: float
    wander: float
    light: float
    hue: float
    layers: int
    under: float

    @staticmethod
    def sample(rng: Random) -> Strokes:
        """Returns random strokes."""
        width, flow = log_uniform(rng, 1.0, 2.9), Flow.sample(rng)
        # Longer ones would hide the shape of the subject, above all those that cross its outline.
        longest = {"along the outline": 10.0, "across the outline": 4.5}.get(flow.kind, 7.0)
        return Strokes(
            flow=flow,
            profile=pick(rng, tuple(_PROFILES)),
            width=width,
            slender=min(log_uniform(rng, 1.6, 8.0), longest / width),
            curl=rng.uniform(0, 0.9),
            wander=pick(rng, (0.05, 0.2, 0.4)),
            light=rng.uniform(4, 22),
            hue=rng.uniform(2, 16),
            layers=int(rng.integers(1, 3)),
            under=pick(rng, (0.0, 0.0, 0.45, -0.35)),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        size = "fine" if self.width < 1.7 else "broad" if self.width > 2.2 else ""
        length = "short" if self.slender < 2.6 else "long" if self.slender > 4 else ""
        return " ".join(word for word in (size, length, self.profile, "brush strokes", self.flow.kind) if word)

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region's strokes."""
        angles = self.flow.angles(painting)
        canvas = where(region, lighter(painting.flat, self.under), canvas)
        for scale in (1.7, 1.0)[-self.layers :]:
            rng = painting.rng
            centers = scattered(rng, "hexagonal", max(self.width * 1.05, 1.8) * scale * UNIT, 0.5)
            centers = rng.permutation(centers[region[pixel_of(centers)]])
            place = pixel_of(centers)
            colors = varied(rng, painting.flat[place], self.light, self.hue)
            canvas = _draw_polygons(canvas, self._outlines(centers, angles[place], scale * UNIT, rng), colors)
        return canvas

    def _outlines(
        self, centers: Float[np.ndarray, "n 2"], angles: Float32[np.ndarray, " n"], scale: float, rng: Random
    ) -> Float[np.ndarray, "n 10 2"]:
        along = np.linspace(-1, 1, 5)
        turn = angles + rng.normal(size=len(angles)) * self.wander
        sway = turn[:, None] + self.curl * rng.choice([-1, 1], len(angles))[:, None] * along
        half = 0.5 * self.width * scale * rng.uniform(0.75, 1.25, (len(angles), 1))
        way = np.stack([np.cos(sway), np.sin(sway)], -1)
        # The middle line: steps to either side of the center, each along the direction half-way.
        step = 0.5 * (way[:, 1:] + way[:, :-1]) * (half * self.slender * 0.5)[..., None]
        line = np.concatenate([np.zeros_like(step[:, :1]), np.cumsum(step, 1)], 1)
        line += centers[:, None] - line[:, 2:3]
        side = np.stack([-way[..., 1], way[..., 0]], -1) * (half * np.array(_PROFILES[self.profile]))[..., None]
        return np.concatenate([line + side, (line - side)[:, ::-1]], 1)


_SHAPES = {
    "round": np.stack([np.cos(np.arange(10) * np.pi / 5), np.sin(np.arange(10) * np.pi / 5)], 1),
    "square": np.array([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),
    "diamond": np.array([[-1.15, 0], [0, -1.15], [1.15, 0], [0, 1.15]]),
    "triangular": np.array([[-1.1, 0.8], [0, -1.2], [1.1, 0.8]]),
}
"""The corners of a dot of radius 1."""


@dataclass(frozen=True)
class Dots:
    """Dots of one shape over an underpainting.

    Attributes:
      shape: "round", "square", "diamond" or "triangular".
      kind, period, jitter: of the grid they lie on; the period in image pixels.
      radius: in periods.
      spread: how the radii vary, relative.
      turned: whether each is turned at random.
      light, hue: how the colors vary.
      under: the underpainting's share of white, or if negative of black.
    """

    shape: str
    kind: str
    period: float
    jitter: float
    radius: float
    spread: float
    turned: bool
    light: float
    hue: float
    under: float

    @staticmethod
    def sample(rng: Random) -> Dots:
        """Returns random dots."""
        return Dots(
            shape=pick(rng, tuple(_SHAPES), (0.55, 0.2, 0.15, 0.1)),
            kind=pick(rng, ("hexagonal", "square")),
            period=log_uniform(rng, 2.2, 4.4),
            jitter=pick(rng, (0.0, 0.15, 0.4)),
            radius=rng.uniform(0.36, 0.62),
            spread=rng.uniform(0, 0.3),
            turned=bool(rng.random() < 0.4),
            light=rng.uniform(2, 24),
            hue=rng.uniform(2, 26),
            under=pick(rng, (0.25, 0.5, -0.3, -0.5)),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        size = "fine" if self.period < 3 else "large" if self.period > 3.7 else ""
        order = "in rows" if self.jitter == 0 else "scattered"
        return " ".join(word for word in (size, self.shape, "dots", order) if word)

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region's dots."""
        rng = painting.rng
        canvas = where(region, lighter(painting.flat, self.under), canvas)
        centers = scattered(rng, self.kind, self.period * UNIT, self.jitter)
        centers = centers[region[pixel_of(centers)]]
        colors = varied(rng, painting.flat[pixel_of(centers)], self.light, self.hue)
        radii = self.radius * self.period * UNIT * rng.uniform(1 - self.spread, 1 + self.spread, len(centers))
        turn = rng.uniform(0, 2 * np.pi, len(centers)) * self.turned
        c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
        x, y = _SHAPES[self.shape].T
        corners = np.stack([x * c - y * s, x * s + y * c], -1) * radii[:, None, None]
        return _draw_polygons(canvas, centers[:, None] + corners, colors)


@dataclass(frozen=True)
class Stipple:
    """Small marks of ink, denser where the image is darker, on a tinted paper.

    Attributes:
      period: of the grid whose points may carry a mark, in image pixels.
      radius: of a mark, in image pixels.
      density: the fraction of marked points at full darkness.
      paper: the fraction of white in the color below.
      depth: the fraction of black in a mark's color.
    """

    period: float
    radius: float
    density: float
    paper: float
    depth: float

    @staticmethod
    def sample(rng: Random) -> Stipple:
        """Returns random stippling."""
        return Stipple(
            rng.uniform(1.5, 2.6),
            rng.uniform(0.5, 1.0),
            rng.uniform(0.7, 1.3),
            rng.uniform(0, 0.45),
            rng.uniform(0.3, 0.75),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "fine stippling" if self.radius < 0.75 else "coarse stippling"

    def paint(self, painting: Painting, canvas: Canvas, region: Region) -> Canvas:
        """Returns the canvas with the region stippled."""
        rng = painting.rng
        canvas = where(region, lighter(painting.flat, self.paper), canvas)
        centers = scattered(rng, "hexagonal", self.period * UNIT, 0.5)
        place = pixel_of(centers)
        kept = region[place] & (rng.random(len(centers)) < 0.12 + self.density * painting.darkness[place])
        centers = centers[kept]
        colors = lighter(painting.flat[pixel_of(centers)], -self.depth)
        corners = _SHAPES["round"][::2] * self.radius * UNIT
        return _draw_polygons(canvas, centers[:, None] + corners, colors)
