"""Effects over a whole finished image: corners, borders, cracks, splashes, misprints and bloom; and all, at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from rdm_jax.data.style_scenes.random_styles.painting import (
    SIDE,
    UNIT,
    Canvas,
    Painting,
    Random,
    lighter,
    pick,
    scattered,
    softened,
    where,
)
from rdm_jax.data.style_scenes.random_styles.paper import Grain, Laid, Relief, Weave
from rdm_jax.data.style_scenes.styles.brush import grid, noise, rgb, shards
from rdm_jax.data.style_scenes.vocabulary import SIZE

CRACKED = 30
"""The size of the pieces of cracked varnish, in canvas pixels."""


@runtime_checkable
class Effect(Protocol):
    """A frozen dataclass of parameters that changes a finished canvas."""

    @property
    def words(self) -> str:
        """What a person calls it."""
        ...

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the changed canvas, in about [0, 255]."""
        ...


@dataclass(frozen=True)
class Vignette:
    """Darker or lighter corners.

    Attributes:
      strength: the fraction of white in the corners, or if negative of black.
    """

    strength: float

    @staticmethod
    def sample(rng: Random) -> Vignette:
        """Returns random corners."""
        return Vignette(pick(rng, (-1, 1)) * rng.uniform(0.25, 0.6))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "pale corners" if self.strength > 0 else "dark corners"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas with its corners changed."""
        x, y = grid(SIDE)
        far = np.clip(np.hypot(x - SIZE / 2, y - SIZE / 2) / np.float32(SIZE / 2) - np.float32(0.65), 0, 1)
        return canvas + (lighter(canvas, self.strength) - canvas) * np.minimum(far * np.float32(1.6), 1)[..., None]


@dataclass(frozen=True)
class Border:
    """A border that the subject may reach over.

    Attributes:
      width: in image pixels.
      tone: its brightness, in [0, 255].
      rounded: whether its corners are round.
      rag: how far its edge strays, in image pixels, as that of torn paper.
    """

    width: float
    tone: float
    rounded: bool
    rag: float

    @staticmethod
    def sample(rng: Random) -> Border:
        """Returns a random border."""
        rag = pick(rng, (0.0, float(rng.uniform(0.5, 1.5))))
        return Border(rng.uniform(1.5, 5), pick(rng, (250.0, 232.0, 40.0)), bool(rng.random() < 0.4), rag)

    @property
    def words(self) -> str:
        """What a person calls it."""
        return f"{'torn ' if self.rag else ''}{'dark' if self.tone < 128 else 'white'} border"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas with the border around the subject."""
        x, y = grid(SIDE)
        half = np.float32(SIZE / 2 - self.width)
        away = np.abs(x - SIZE / 2) - half, np.abs(y - SIZE / 2) - half
        if self.rounded:
            beyond = np.hypot(np.maximum(away[0] + 9, 0), np.maximum(away[1] + 9, 0)) - 9
        else:
            beyond = np.maximum(*away)
        if self.rag:
            beyond = beyond + np.float32(self.rag) * noise(SIDE, painting.rng, 12.0)
        outside = beyond > 0
        paper = np.broadcast_to(rgb(self.tone, self.tone * 0.985, self.tone * 0.95), canvas.shape)
        return where(outside & ~painting.subject, paper, canvas)


@dataclass(frozen=True)
class Cracks:
    """Old varnish.

    Attributes:
      strength: the fraction of white in a crack, or if negative of black.
    """

    strength: float

    @staticmethod
    def sample(rng: Random) -> Cracks:
        """Returns random cracks."""
        return Cracks(pick(rng, (-0.3, -0.2, 0.25)))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "cracked varnish"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas with cracks."""
        edge, _ = shards(SIDE, painting.rng, CRACKED)
        return where(edge < 1.2, lighter(canvas, self.strength), canvas)


@dataclass(frozen=True)
class Splashes:
    """Drops of one color.

    Attributes:
      period: their mean distance, in image pixels.
      radius: in image pixels.
      tone: their brightness, in [0, 255].
    """

    period: float
    radius: float
    tone: float

    @staticmethod
    def sample(rng: Random) -> Splashes:
        """Returns random drops."""
        return Splashes(rng.uniform(6, 12), rng.uniform(0.4, 0.9), pick(rng, (30.0, 250.0)))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "dark splashes" if self.tone < 128 else "white splashes"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas with drops."""
        rng = painting.rng
        centers = scattered(rng, "square", self.period * UNIT, 0.5) / UNIT
        centers = centers[(centers > 0).all(1) & (centers < SIZE).all(1)]
        radii = (self.radius * rng.uniform(0.5, 1.5, len(centers))).astype(np.float32)
        x, y = grid(SIDE)
        drops = np.zeros((SIDE, SIDE), bool)
        for (left, top), radius in zip(centers.tolist(), radii.tolist(), strict=True):
            rows = slice(max(int((top - 2) * UNIT), 0), int((top + 2) * UNIT))
            columns = slice(max(int((left - 2) * UNIT), 0), int((left + 2) * UNIT))
            drops[rows, columns] |= np.hypot(x[:, columns] - left, y[rows] - top) < radius
        return where(drops, np.full_like(canvas, self.tone), canvas)


@dataclass(frozen=True)
class Misprint:
    """Channels printed beside each other.

    Attributes:
      shift: (down, right) of the first channel, and backward of the last, in canvas pixels.
    """

    shift: tuple[int, int]

    @staticmethod
    def sample(rng: Random) -> Misprint:
        """Returns a random misprint."""
        return Misprint((int(rng.integers(-4, 5)), pick(rng, (-4, -3, 3, 4))))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "misprinted colors"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas with its channels moved."""
        down, right = self.shift
        channels = canvas[..., 0], canvas[..., 1], canvas[..., 2]
        back = np.roll(channels[2], (-down, -right), (0, 1))
        return np.stack([np.roll(channels[0], self.shift, (0, 1)), channels[1], back], -1)


@dataclass(frozen=True)
class Bloom:
    """Light or softness around everything.

    Attributes:
      radius: in image pixels.
      share: of the blurred image.
    """

    radius: float
    share: float

    @staticmethod
    def sample(rng: Random) -> Bloom:
        """Returns a random bloom."""
        return Bloom(rng.uniform(1.0, 3.0), rng.uniform(0.25, 0.55))

    @property
    def words(self) -> str:
        """What a person calls it."""
        return "soft focus"

    def apply(self, canvas: Canvas, painting: Painting) -> Canvas:
        """Returns the canvas mixed with its blur."""
        return canvas + (softened(canvas, self.radius * UNIT) - canvas) * np.float32(self.share)


EFFECTS = (Grain, Weave, Laid, Relief, Vignette, Border, Cracks, Splashes, Misprint, Bloom)
WEIGHTS = (0.2, 0.12, 0.1, 0.16, 0.1, 0.1, 0.06, 0.06, 0.05, 0.05)


def sample_effects(rng: Random) -> tuple[Effect, ...]:
    """Returns none, one or two random effects, in the order of `EFFECTS`."""
    count = pick(rng, (0, 1, 2), (0.4, 0.4, 0.2))
    chosen = sorted(rng.choice(len(EFFECTS), count, replace=False, p=np.array(WEIGHTS)).tolist())
    return tuple(EFFECTS[k].sample(rng) for k in chosen)
