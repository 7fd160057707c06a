"""A random style: techniques for the subject and the background, a palette, edges, outlines and a surface."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rdm_jax.core.errors import UserError
from rdm_jax.data.style_scenes.layout import Layout
from rdm_jax.data.style_scenes.random_styles.colors import Colors
from rdm_jax.data.style_scenes.random_styles.outlines import DARK_INKS, Edges, Outline
from rdm_jax.data.style_scenes.random_styles.painting import (
    SIDE,
    UNIT,
    Painting,
    Random,
    Technique,
    pick,
    softened,
    where,
)
from rdm_jax.data.style_scenes.random_styles.paper import Laid
from rdm_jax.data.style_scenes.random_styles.screens import Halftone, Hatch
from rdm_jax.data.style_scenes.random_styles.strokes import Dots, Stipple, Strokes
from rdm_jax.data.style_scenes.random_styles.surface import Border, Effect, sample_effects
from rdm_jax.data.style_scenes.random_styles.tiles import Pieces, Threads
from rdm_jax.data.style_scenes.random_styles.washes import Flat, Sponge, Streaks, Wash
from rdm_jax.data.style_scenes.shapes import Role
from rdm_jax.data.style_scenes.styles.brush import ImageArray, finish, labels, shrink
from rdm_jax.data.style_scenes.vocabulary import Scene

SEED = 20_250
"""The seed of the family: with a style's number it determines the style."""

TECHNIQUES: dict[str, tuple[Callable[[Random], Technique], float]] = {
    "flat": (Flat.sample, 0.14),
    "wash": (Wash.sample, 0.12),
    "sponge": (Sponge.sample, 0.06),
    "streaks": (Streaks.sample, 0.11),
    "strokes": (Strokes.sample, 0.18),
    "dots": (Dots.sample, 0.08),
    "stipple": (Stipple.sample, 0.05),
    "halftone": (Halftone.sample, 0.06),
    "hatch": (Hatch.sample, 0.09),
    "pieces": (Pieces.sample, 0.08),
    "threads": (Threads.sample, 0.03),
}
"""How each technique is drawn at random, and how often it paints the subject."""

PLAIN = ("flat", "wash", "sponge", "streaks")
"""Techniques of a background that differs from the subject's."""


@dataclass(frozen=True)
class RandomStyle:
    """A style drawn from wide ranges.

    Attributes:
      number: its number in the family.
      technique: the name of the technique that paints the subject.
      colors: its palette.
      edges: its edges.
      subject, background: its techniques; where they are equal, one pass paints the whole image.
      outline: its lines.
      effects: its surface.
    """

    number: int
    technique: str
    colors: Colors
    edges: Edges
    subject: Technique
    background: Technique
    outline: Outline
    effects: tuple[Effect, ...]

    @property
    def name(self) -> str:
        """The label of its images."""
        return style_name(self.number)

    @property
    def words(self) -> str:
        """The style in words, as "short pointed brush strokes wavy, muted colors, dark background, no outline"."""
        background = () if self.background == self.subject else (f"{self.background.words} behind",)
        parts = (self.subject.words, *background, self.colors.words, self.edges.words, self.outline.words)
        return ", ".join((*parts, *(effect.words for effect in self.effects)))

    def paint(self, layout: Layout, scene: Scene, rng: Random) -> ImageArray:
        """Returns the image of a scene laid out; equal generators give equal images."""
        layout = self.edges.cut(layout)
        canvas_labels = self.edges.sway(labels(layout, SIDE), rng)
        painting = Painting(canvas_labels, self.colors.palette(scene, rng), rng)
        canvas = softened(painting.flat, self.edges.soft * UNIT) if self.edges.soft else painting.flat
        everywhere = np.ones((SIDE, SIDE), bool)
        canvas = self.background.paint(painting, canvas, everywhere)
        if self.subject != self.background:
            canvas = self.subject.paint(painting, canvas, painting.subject)
        # Eyes, windows and spots are smaller than most strokes: they are touched up, so that the subject stays known.
        details = (canvas_labels == Role.INK) | (canvas_labels == Role.WHITE)
        canvas = where(details, canvas + (painting.flat - canvas) * np.float32(0.7), canvas)
        canvas = self.outline.draw(painting, layout, self.edges, canvas)
        for effect in self.effects:
            canvas = effect.apply(canvas, painting)
        return finish(shrink(canvas))


def style_name(number: int) -> str:
    """Returns the label of a random style's images, as "r00042"."""
    return f"r{number:05d}"


@functools.lru_cache(maxsize=1024)
def random_style(number: int) -> RandomStyle:
    """Returns the style of a number; there are as many as there are numbers.

    Raises:
      UserError: the number is negative.
    """
    if number < 0:
        raise UserError(f"style number {number} is negative; styles are counted from 0")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SEED, number])))
    technique = pick(rng, tuple(TECHNIQUES), [weight for _, weight in TECHNIQUES.values()])
    subject = TECHNIQUES[technique][0](rng)
    background = subject if rng.random() < 0.5 else TECHNIQUES[pick(rng, PLAIN)][0](rng)
    colors = Colors.sample(rng)
    dark = colors.inverted if colors.monochrome else colors.ground == "dark"
    style = RandomStyle(
        number,
        technique,
        colors,
        Edges.sample(rng),
        subject,
        background,
        Outline.sample(rng, dark),
        sample_effects(rng),
    )
    return _unlike_held_out(style)


def _unlike_held_out(style: RandomStyle) -> RandomStyle:
    """Returns the style without what, taken together, would be one of `HELD_OUT_STYLES`.

    Their elements occur, each among others: dark lines around flat color, a grain that lies, washes, a torn border,
    shards, leads. Dark lines over a lying grain would be woodblock, leads around shards stained glass, and washes
    within a border watercolor.
    """
    techniques = (style.subject, style.background)
    shards = any(isinstance(t, Pieces) and t.kind == "shard" for t in techniques)
    lying = any(isinstance(e, Laid) and abs(e.angle) > 1.0 for e in style.effects)
    if (shards or lying) and style.outline.ink in DARK_INKS and style.outline.width > 1.0:
        style = replace(style, outline=replace(style.outline, width=0.0))
    if any(isinstance(t, Wash) for t in techniques):
        style = replace(style, effects=tuple(e for e in style.effects if not isinstance(e, Border)))
    return style
