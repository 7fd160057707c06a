"""The arms of the style-swap measurement, as a table, and the images of each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.data.style_scenes.captions import neutral_prompt
from rdm_jax.data.style_scenes.vocabulary import (
    COLORS,
    HELD_OUT_PAIRS,
    KEPT_OUT,
    NAMED_STYLES,
    NEVER_NAMED,
    STYLES,
    SUBJECTS,
    in_training,
)

GENERAL = "general"
FIRST = "style_database"  # the arm of the model's purpose, which has the most samples
COPIES = 2
COLOR_STRIDE = 3
MAX_COPIES = 1_000

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of requesting a style.

    Attributes:
      name: its key in the results.
      title: its name in a table.
      pairs: the (subject, style) that are generated, all equally often.
      own_database: whether neighbors come from the style's own database, otherwise from the general one.
      named: whether the prompt names the style.
      random_neighbors: whether the neighbors are random rows of the database, otherwise the nearest to the prompt.
      condition: of the model, in place of that of the measurement.
      least: the fewest images.
      targets: {attribute: the proportion that should be classified as requested}.
      at_chance: attributes that the arm gives no information about, where chance is expected.
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
    """One image to generate.

    Attributes:
      subject: of the image.
      colour: of the subject.
      style: of the image.
      prompt: the text.
      database: the name of the database.
      random_neighbors: whether neighbors are random rows of the database.
      condition: of the model; None for that of the measurement.
      noise: the index of its noise; equal for all styles of one prompt, so that they can be compared.
      copy: its number among the images of this prompt and style.
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


ALL_PAIRS: tuple[Pair, ...] = tuple(itertools.product(SUBJECTS, STYLES))


def check_styles(names: Sequence[str]) -> None:
    """Raises UserError for the first name that is no style."""
    for name in names:
        if name not in STYLES:
            raise unknown("style", name, STYLES)


def arms_of(held_out: Sequence[str] = (KEPT_OUT,)) -> tuple[Arm, ...]:
    """Returns the arms, in the order of the table; the first one is the model's purpose.

    Args:
      held_out: the styles that the model's training has excluded.

    Raises:
      UserError: there is no such style, or no style is left.
    """
    check_styles(held_out)
    trained = tuple(pair for pair in ALL_PAIRS if in_training(*pair) and pair[1] not in held_out)
    if not trained:
        raise UserError("no style is left that training has; give fewer held-out styles")

    def pairs(styles: Sequence[str]) -> tuple[Pair, ...]:
        """Returns all subjects in those of the styles that training has."""
        return tuple(pair for pair in ALL_PAIRS if pair in trained and pair[1] in styles)

    excluded = tuple(pair for pair in ALL_PAIRS if pair[1] in held_out)
    never_together = tuple(pair for pair in HELD_OUT_PAIRS if pair[1] not in held_out)
    arms = (
        Arm(
            FIRST,
            "A: neutral prompt, the style's database",
            trained,
            least=1_000,
            targets={"style": 0.97, "subject": 0.95, "colour": 0.95},
        ),
        Arm(
            "named_general",
            "B: style named in the prompt, general database",
            pairs(NAMED_STYLES),
            own_database=False,
            named=True,
        ),
        Arm(
            "held_out_pairs",
            "pairs never seen together, the style's database",
            never_together,
            targets={"style": 0.90, "subject": 0.85},
        ),
        Arm("never_named", "styles never named, the style's database", pairs(NEVER_NAMED), targets={"style": 0.95}),
        Arm(
            "never_named_general",
            "styles never named, named in the prompt, general database",
            pairs(NEVER_NAMED),
            own_database=False,
            named=True,
            at_chance=("style",),
        ),
        Arm(
            "kept_out_style",
            "styles excluded from training, their databases",
            excluded,
            targets={"style": 0.60, "subject": 0.85},
        ),
        Arm(
            "kept_out_named",
            "styles excluded from training, named in the prompt, general database",
            excluded,
            own_database=False,
            named=True,
        ),
        Arm(
            "text_random_neighbors",
            "random images of the style as neighbors: the prompt alone determines the subject",
            trained,
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
            "control: random images of the style as neighbors, without the prompt",
            trained,
            random_neighbors=True,
            condition="neighbors",
            at_chance=("subject", "colour"),
        ),
    )
    return tuple(arm for arm in arms if arm.pairs)


ARMS = arms_of()
"""The arms of a model whose training has excluded `KEPT_OUT`."""


def cells_of(arm: Arm, count: int) -> list[Cell]:
    """Returns `count` images of an arm, spread evenly over its pairs, and over colors within each.

    Each prompt is generated in `COPIES` consecutive rounds over the pairs, so that images of one prompt and style can
    be compared with each other. Noise depends on the prompt and the copy, not on the style. If neither prompt nor
    database has the style, each pair has its own noise: the images would be equal otherwise.
    """
    rounds = -(-count // len(arm.pairs))
    return [_cell(arm, pair, turn) for turn in range(rounds) for pair in arm.pairs][:count]


def _cell(arm: Arm, pair: Pair, turn: int) -> Cell:
    subject, style = pair
    colors = list(COLORS)
    number = SUBJECTS.index(subject)
    step, within = divmod(turn, COPIES)
    lap, step = divmod(step, len(colors))
    color = (COLOR_STRIDE * step + number) % len(colors)
    copy = within + COPIES * lap
    has_style = arm.named or arm.own_database
    prompt_number = number * len(colors) + color
    if not has_style:
        prompt_number += len(SUBJECTS) * len(colors) * STYLES.index(style)
    neutral = neutral_prompt(subject, colors[color])
    return Cell(
        subject=subject,
        colour=colors[color],
        style=style,
        # Names that captions never had take the place of the others.
        prompt=f"{neutral}, {style}" if arm.named else neutral,
        database=database_name(style) if arm.own_database else GENERAL,
        random_neighbors=arm.random_neighbors,
        condition=arm.condition,
        noise=prompt_number * MAX_COPIES + copy,
        copy=copy,
    )
