"""The plans of a grid's cells: everything is checked before anything is generated."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from rdm_jax.core.errors import UserError
from rdm_jax.core.file_names import file_names
from rdm_jax.generator import Generator, Plan
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.opening import database_place
from rdm_jax.retrieval.retriever import Retriever
from rdm_jax.sweep.axes import DATABASE, PROMPT, Axis, cells_of, change_calls, spellings, words_of


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The cells of a grid, row by row: the first axis runs along a row, the second one down the rows.

    Attributes:
      axes: one or two.
      plans: of each cell.
      databases: of each cell; None where its condition needs none.
      shapes: what the programs of the cells are compiled for, without duplicates.
    """

    axes: tuple[Axis, ...]
    plans: tuple[Plan, ...]
    databases: tuple[Mixture | None, ...]
    shapes: frozenset[Hashable]

    @property
    def settings(self) -> list[dict[str, str]]:
        """{key: value as the user wrote it} of each cell."""
        return [{axis.key: axis.texts[place] for axis, place in cell} for cell in cells_of(self.axes)]

    @property
    def names(self) -> list[str]:
        """A file name for each cell."""
        return list(file_names(words_of(self.axes, cell) for cell in cells_of(self.axes)))

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the axes as JSON values."""
        return [{"key": axis.key, "values": list(axis.texts)} for axis in self.axes]


def plan_sweep(
    generator: Generator,
    axes: Sequence[Axis],
    prompts: Sequence[str] = (),
    *,
    database: Mixture | str | None = None,
    **options: Any,
) -> Sweep:
    """Plans every cell, so that all values are checked before anything is generated.

    Args:
      generator: the model.
      axes: from `read_axes`.
      prompts: of every cell; none where an axis is the prompt.
      database: of every cell, or its name; None where an axis is the database, or the condition needs none.
      **options: what else `Generator.plan` takes.

    Raises:
      UserError: a value is invalid; the message names the cell, the value and what is allowed.
    """
    swept = {axis.name for axis in axes}
    _check_alone(swept, prompts, database, options)
    opened: dict[Any, tuple[Mixture, Retriever]] = {}
    plans, databases = [], []
    for cell in cells_of(axes):
        given = {axis.name: axis.values[place] for axis, place in cell}
        try:
            plan, used = _plan_cell(generator, given, prompts, database, options, opened)
        except UserError as error:
            raise UserError(f"sweep {words_of(axes, cell)}: {error}") from error
        plans.append(plan)
        databases.append(used)
    shapes = frozenset(generator.head.shape(plan, plan.request.batch_size) for plan in plans)
    return Sweep(tuple(axes), tuple(plans), tuple(databases), shapes)


def _check_alone(swept: set[str], prompts: Sequence[str], database: Any, options: Mapping[str, Any]) -> None:
    """Raises UserError for what is given both by an axis and for all cells."""
    if PROMPT in swept and prompts:
        raise UserError(f"the sweep gives the prompts; leave {prompts[0]!r} out")
    if DATABASE in swept and database is not None:
        raise UserError("the sweep gives the databases; leave --database out")
    if DATABASE in swept and len(options.get("rows", ())):
        raise UserError("rows of a database are queries (--proposals), and the sweep has several databases; give one")


def _plan_cell(
    generator: Generator,
    given: Mapping[str, Any],
    prompts: Sequence[str],
    database: Mixture | str | None,
    options: Mapping[str, Any],
    opened: dict[Any, tuple[Mixture, Retriever]],
) -> tuple[Plan, Mixture | None]:
    """Returns the plan of a cell and its database.

    Args:
      generator: the model.
      given: the cell's own values by name.
      prompts: of all cells.
      database: of all cells.
      options: of all cells.
      opened: the databases so far; the cell's is added.
    """
    chosen = dict(options)
    calls_of = {name for _, name, declaration in spellings(generator).values() if declaration.table}
    for name, value in given.items():
        if "." in name:
            chosen |= change_calls(generator, chosen, name, value)
        elif name in calls_of:
            chosen[name] = [*(chosen.get(name) or ()), *value]
        elif name not in (PROMPT, DATABASE):
            chosen[name] = value
    place = given.get(DATABASE, database)
    key = place if isinstance(place, str) else id(place)
    if place is not None and key not in opened:
        opened[key] = _open(generator, place)
    mixture, retriever = opened[key] if place is not None else (None, None)
    prompts = [given[PROMPT]] if PROMPT in given else list(prompts)
    plan = generator.plan(prompts, database=retriever, **chosen)
    return plan, None if plan.neighbors is None else mixture


def _open(generator: Generator, database: Mixture | str) -> tuple[Mixture, Retriever]:
    """Returns a database and what retrieves from it; a folder of images becomes a database."""
    if isinstance(database, str):
        database = Mixture.open([str(database_place(generator.encoder, database))])
    return database, Retriever(generator.encoder, database.databases, database.weights)
