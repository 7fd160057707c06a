"""The set of random styles as examples: which style paints which scene, so that styles and scenes both recur.

A *row* is one style with `SLOTS` images, in which each subject occurs twice. In each slot the rows are shuffled, and
every `TWINS` of them in a line paint the same scene: the same subject, color and ground in the same pose. These images
are twins. A named style has several rows, since it is better known than a random one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.data.style_scenes.captions import caption, random_caption
from rdm_jax.data.style_scenes.layout import Layout, lay_out
from rdm_jax.data.style_scenes.random_styles.style import random_style, style_name
from rdm_jax.data.style_scenes.styles import STYLE_PAINTERS, UPRIGHT
from rdm_jax.data.style_scenes.styles.brush import ImageArray
from rdm_jax.data.style_scenes.vocabulary import (
    COLORS,
    GROUNDS,
    HELD_OUT_STYLES,
    MONOCHROME,
    NAMED_STYLES,
    STYLES,
    SUBJECTS,
    Scene,
    in_training,
)

SLOTS = 2 * len(SUBJECTS)
"""The images of a row."""

TWINS = 4
"""The rows that paint the same scene in a slot."""

SEEN_STYLES: tuple[str, ...] = tuple(style for style in STYLES if style not in HELD_OUT_STYLES)
"""Named styles that are in the set too."""

UNSEEN_FROM = 100_000
"""The number of the first random style of the split `unseen`; those of training are below."""


@dataclass(frozen=True)
class _Described:
    """What an example needs of its style, named or random."""

    painter: Callable[[Layout, Scene, np.random.Generator], ImageArray]
    technique: str
    words: str
    monochrome: bool


def _described(name: str) -> _Described:
    if name in STYLE_PAINTERS:
        return _Described(STYLE_PAINTERS[name], name, name if name in NAMED_STYLES else "", name in MONOCHROME)
    style = random_style(int(name[1:]))
    return _Described(style.paint, style.technique, style.words, style.colors.monochrome)


def _caption(scene: Scene, monochrome: bool, rng: np.random.Generator) -> str:
    """Returns a caption, which names the style in half of the cases where the style has a name."""
    if scene.style in STYLE_PAINTERS:
        return random_caption(scene, rng)
    # A random style has no name. For monochrome ones the rules of a named monochrome style hold.
    return caption(replace(scene, style=MONOCHROME[0]) if monochrome else scene, False, rng)


@dataclass(frozen=True)
class Rows:
    """The styles of a split.

    Attributes:
      first, count: the numbers of its random styles.
      copies: the rows of each of `SEEN_STYLES`.
    """

    first: int
    count: int
    copies: int

    @property
    def styles(self) -> tuple[str, ...]:
        """The style of each row."""
        random = (style_name(number) for number in range(self.first, self.first + self.count))
        return (*random, *(style for style in SEEN_STYLES for _ in range(self.copies)))


SPLITS: tuple[str, ...] = ("train", "validation", "unseen")
"""`validation` has styles of `train` in other scenes, `unseen` random styles that `train` has not."""

FULL_ROWS = {"train": Rows(0, 3_400, 70), "validation": Rows(0, 70, 2), "unseen": Rows(UNSEEN_FROM, 160, 0)}

TINY_ROWS = {"train": Rows(0, 12, 1), "validation": Rows(0, 4, 0), "unseen": Rows(UNSEEN_FROM, 4, 0)}


@dataclass(frozen=True)
class _Plan:
    """The examples of a split.

    Attributes:
      styles: the style of each row.
      orders: [SLOTS, rows] the rows in the order of each slot.
      places: [n, 2] the slot of each example and its place in the slot's order.
    """

    styles: tuple[str, ...]
    orders: Int[np.ndarray, "slots rows"]
    places: Int[np.ndarray, "n 2"]


@functools.lru_cache(maxsize=8)
def _plan(split: str, rows: Rows, seed: int) -> _Plan:
    styles = rows.styles
    rng = _generator(split, seed)
    orders = np.stack([rng.permutation(len(styles)) for _ in range(SLOTS)])
    places = [
        (slot, place)
        for slot, order in enumerate(orders.tolist())
        for place, row in enumerate(order)
        if in_training(_subject(slot), styles[row])
    ]
    return _Plan(styles, orders, np.array(places))


def _subject(slot: int) -> str:
    return SUBJECTS[slot % len(SUBJECTS)]


def _generator(split: str, *numbers: int) -> np.random.Generator:
    if split not in SPLITS:
        raise unknown("split", split, SPLITS, hint="of the random styles")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLITS.index(split), *numbers])))


def size(split: str, rows: Rows, seed: int = 0) -> int:
    """Returns the number of a split's examples: `SLOTS` for each row, less the pairs held out of training."""
    return len(_plan(split, rows, seed).places)


def example(index: int, split: str, rows: Rows, seed: int = 0) -> dict[str, Any]:
    """Returns one example; it depends on nothing but the arguments.

    Args:
      index: its place in the split, from 0.
      split: one of `SPLITS`.
      rows: the split's styles.
      seed: the set's seed.

    Returns:
      image (uint8 [64, 64, 3]), caption, subject, colour, ground, style (as "r00042", or a named one), words (the style
      described in words), technique, monochrome (1 where the colors cannot be seen), content (as "red boat"), group
      (the scene: images of a group are twins, alike in all but the style), and id.

    Raises:
      UserError: the split is unknown, or the index outside of it.
    """
    plan = _plan(split, rows, seed)
    if not 0 <= index < len(plan.places):
        raise UserError(f"index {index} is not in the {len(plan.places)} examples of {split}; choose one from 0")
    slot, place = plan.places[index].tolist()
    chunk = place // TWINS
    twins = plan.orders[slot, TWINS * chunk : TWINS * (chunk + 1)].tolist()
    row = int(plan.orders[slot, place])
    chosen = _generator(split, seed, slot, chunk)
    colour, ground = list(COLORS)[chosen.integers(len(COLORS))], list(GROUNDS)[chosen.integers(len(GROUNDS))]
    scene = Scene(_subject(slot), colour, ground, plan.styles[row])
    layout = lay_out(scene.subject, chosen, upright=any(plan.styles[twin] in UPRIGHT for twin in twins))
    style = _described(scene.style)
    return {
        "image": style.painter(layout, scene, _generator(split, seed, slot, chunk, row)),
        # The generator is the scene's: twins have the same caption, unless it names the style or omits the colors.
        "caption": _caption(scene, style.monochrome, _generator(split, seed, slot, chunk, len(plan.styles))),
        "subject": scene.subject,
        "colour": scene.colour,
        "ground": scene.ground,
        "style": scene.style,
        "words": style.words,
        "technique": style.technique,
        "monochrome": int(style.monochrome),
        "content": f"{scene.colour} {scene.subject}",
        "group": f"{split}/{slot:02d}/{chunk:04d}",
        "id": f"{split}/{index:06d}",
    }
