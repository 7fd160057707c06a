"""The vocabulary of the image set: subjects, colors, grounds and styles, and what is excluded from training."""

from __future__ import annotations

from dataclasses import dataclass

SIZE = 64
"""Height and width of every image, in pixels."""

SUBJECTS: tuple[str, ...] = (
    "sun",
    "tree",
    "house",
    "boat",
    "fish",
    "cat",
    "flower",
    "mountain",
    "cup",
    "star",
    "mushroom",
    "rocket",
)

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 34, 38),
    "orange": (242, 118, 12),
    "yellow": (248, 200, 8),
    "green": (44, 152, 48),
    "teal": (0, 164, 168),
    "blue": (34, 78, 206),
    "purple": (122, 44, 168),
    "pink": (242, 98, 176),
}

GROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 246),
    "grey": (198, 200, 206),
    "blue": (184, 216, 250),
    "green": (196, 232, 184),
    "yellow": (255, 242, 168),
    "pink": (255, 208, 220),
}

STYLES: tuple[str, ...] = (
    "poster",
    "pointillism",
    "engraving",
    "mosaic",
    "watercolour",
    "pixel art",
    "stained glass",
    "neon",
    "charcoal",
    "marlow",
    "isolde",
    "woodblock",
)

MONOCHROME: tuple[str, ...] = ("charcoal",)
"""Styles in which neither the subject's color nor the ground's can be seen."""

NEVER_NAMED: tuple[str, ...] = ("marlow", "isolde")
"""Styles of invented artists: in the training set, but never named in a caption."""

KEPT_OUT = "woodblock"
"""The style that no network sees in training; it enters through the retrieval database alone."""

NAMED_STYLES: tuple[str, ...] = tuple(s for s in STYLES if s not in NEVER_NAMED and s != KEPT_OUT)
"""Styles that captions may name."""

HELD_OUT_PAIRS: tuple[tuple[str, str], ...] = (
    ("cat", "stained glass"),
    ("boat", "pointillism"),
    ("rocket", "engraving"),
    ("mushroom", "neon"),
    ("house", "mosaic"),
    ("fish", "watercolour"),
    ("star", "pixel art"),
    ("flower", "charcoal"),
    ("cup", "marlow"),
    ("mountain", "isolde"),
)
"""Pairs of a subject and a style that no network sees together in training."""

HELD_OUT_STYLES: tuple[str, ...] = (KEPT_OUT, "watercolour", "stained glass")
"""Named styles that are in no split of the set of random styles; they measure how a style never seen is followed.

One of each way to make an image: `woodblock` is led by the line, with a grain over flat color; `watercolour` is soft,
without lines, on bare paper; `stained glass` is made of hard pieces that glow between dark leads. Each has a neighbor
among the styles that stay: engraving, pointillism and mosaic.
"""


@dataclass(frozen=True)
class Scene:
    """What an image shows: names from `SUBJECTS`, `COLORS`, `GROUNDS` and `STYLES`."""

    subject: str
    colour: str
    ground: str
    style: str


def in_training(subject: str, style: str) -> bool:
    """Returns whether images of this subject in this style may be used in training."""
    return style != KEPT_OUT and (subject, style) not in HELD_OUT_PAIRS
