"""The arms of the style-swap measurement, as a table, and the pictures that each of them asks for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from rdm_jax.data.style_scenes.captions import neutral_prompt
from rdm_jax.data.style_scenes.vocabulary import (
    COLOURS,
    HELD_OUT_PAIRS,
    KEPT_OUT,
    NAMED_STYLES,
    NEVER_NAMED,
    STYLES,
    SUBJECTS,
    in_training,
)

GENERAL = "general"
COPIES = 2
COLOUR_STRIDE = 3
MAX_COPIES = 1_000

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of asking for a style.

    Attributes:
      name: its key in the results.
      title: what a table says of it.
      pairs: the (subject, style) that are drawn, all equally often.
      own_database: whether neighbours come from the style's own database, and not from the general one.
      named: whether the prompt names the style.
      random_neighbors: whether the neighbours are random rows of the database, and not the prompt's nearest.
      condition: what the model sees, in place of what is asked for in general.
      least: the fewest pictures.
      targets: {attribute: the share that should name what was asked for}.
      at_chance: attributes that are not to be had this way, where chance is the right answer.
    """

    name: str
    title: str
    pairs: tuple[Pair, ...]
    own_database: bool = True
    named: bool = False
    random_neighbors: bool = False
    condition: str | None = None
    least: int = 200
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)
    at_chance: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cell:
    """One picture to draw.

    Attributes:
      subject: what it is of.
      colour: of the subject.
      style: the style that is wanted.
      prompt: the text.
      database: the name of the database.
      random_neighbors: whether neighbours are random rows of the database.
      condition: what the model sees; None for what is asked for in general.
      noise: which noise it starts from; equal for all styles of one prompt, so that they can be compared.
      copy: its number among the pictures of this prompt and style.
    """

    subject: str
    colour: str
    style: str
    prompt: str
    database: str
    random_neighbors: bool
    condition: str | None
    noise: int
    copy: int


def database_name(style: str) -> str:
    """Returns the name of a style's database."""
    return style.replace(" ", "-")


def _pairs(styles: Sequence[str]) -> tuple[Pair, ...]:
    return tuple(pair for pair in itertools.product(SUBJECTS, styles) if pair not in HELD_OUT_PAIRS)


ALL_PAIRS: tuple[Pair, ...] = tuple(itertools.product(SUBJECTS, STYLES))

ARMS: tuple[Arm, ...] = (
    Arm(
        "style_database",
        "A: neutral prompt, the style's database",
        tuple(pair for pair in ALL_PAIRS if in_training(*pair)),
        least=1_000,
        targets={"style": 0.97, "subject": 0.95, "colour": 0.95},
    ),
    Arm(
        "named_general",
        "B: style named in the prompt, general database",
        _pairs(NAMED_STYLES),
        own_database=False,
        named=True,
    ),
    Arm(
        "held_out_pairs",
        "pairs never seen together, the style's database",
        HELD_OUT_PAIRS,
        targets={"style": 0.90, "subject": 0.85},
    ),
    Arm("never_named", "styles never named, the style's database", _pairs(NEVER_NAMED), targets={"style": 0.95}),
    Arm(
        "never_named_general",
        "styles never named, named in the prompt, general database",
        _pairs(NEVER_NAMED),
        own_database=False,
        named=True,
        at_chance=("style",),
    ),
    Arm("kept_out_style", "style kept out of training, its database", tuple((s, KEPT_OUT) for s in SUBJECTS)),
    Arm(
        "text_random_neighbors",
        "random pictures of the style as neighbours: the prompt alone says what",
        tuple(pair for pair in ALL_PAIRS if in_training(*pair)),
        random_neighbors=True,
        condition="text+neighbors",
    ),
    Arm(
        "control_no_style",
        "control: no style named, general database",
        ALL_PAIRS,
        own_database=False,
        at_chance=("style",),
    ),
    Arm(
        "control_random_neighbors",
        "control: random pictures of the style as neighbours, and they alone",
        tuple(pair for pair in ALL_PAIRS if in_training(*pair)),
        random_neighbors=True,
        condition="neighbors",
        at_chance=("subject", "colour"),
    ),
)
"""The arms, in the order of the table; the first one is what the model is for."""


def cells_of(arm: Arm, count: int) -> list[Cell]:
    """Returns `count` pictures of an arm, spread evenly over its pairs, and over colours within each.

    Each prompt is drawn `COPIES` times in a row of rounds over the pairs, so that pictures of one prompt and style can
    be compared with each other. Noise goes with the prompt and the copy, whatever the style. Where nothing in prompt or
    database tells the style, each pair gets noise of its own: the pictures would be the same otherwise.
    """
    rounds = -(-count // len(arm.pairs))
    return [_cell(arm, pair, turn) for turn in range(rounds) for pair in arm.pairs][:count]


def _cell(arm: Arm, pair: Pair, turn: int) -> Cell:
    subject, style = pair
    colours = list(COLOURS)
    number = SUBJECTS.index(subject)
    step, within = divmod(turn, COPIES)
    lap, step = divmod(step, len(colours))
    colour = (COLOUR_STRIDE * step + number) % len(colours)
    copy = within + COPIES * lap
    untold = not arm.named and not arm.own_database
    prompt_number = number * len(colours) + colour
    if untold:
        prompt_number += len(SUBJECTS) * len(colours) * STYLES.index(style)
    neutral = neutral_prompt(subject, colours[colour])
    return Cell(
        subject=subject,
        colour=colours[colour],
        style=style,
        # Names that captions never had are put where the others stand.
        prompt=f"{neutral}, {style}" if arm.named else neutral,
        database=database_name(style) if arm.own_database else GENERAL,
        random_neighbors=arm.random_neighbors,
        condition=arm.condition,
        noise=prompt_number * MAX_COPIES + copy,
        copy=copy,
    )
