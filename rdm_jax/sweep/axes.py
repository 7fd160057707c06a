"""The axes of a grid: "guidance_scale=1,3,9" to an option and its values."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rdm_jax.core import calls, values
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.options import Declaration, declarations, flag_of, kind_of
from rdm_jax.generator import Generator
from rdm_jax.request import Request

PROMPT, DATABASE = "prompt", "database"  # keys that are no options of a request or a head
MOST_AXES = 2
MOST_CELLS = 1024  # more is a slip
NONE = "none"  # no guide, no condition


@dataclasses.dataclass(frozen=True)
class Axis:
    """An option and its values.

    Attributes:
      key: as the user wrote it.
      name: of the option, `PROMPT`, `DATABASE`, or "GUIDE.OPTION".
      texts: the values as the user wrote them; of databases without their folders.
      values: the same in the option's type.
    """

    key: str
    name: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """The labels on the sheet; prompts and databases need no key."""
        plain = self.name in (PROMPT, DATABASE)
        return list(self.texts) if plain else [f"{self.key}={text}" for text in self.texts]


def read_axes(texts: Sequence[str], generator: Generator, options: Mapping[str, Any] = {}) -> tuple[Axis, ...]:
    """Returns the axes that texts describe.

    Args:
      texts: one or two, "KEY=A,B,C" each. KEY is an option of the request or of the model's head by its name or flag,
        "prompt", "database", or "GUIDE.OPTION" of a guide or condition in `options`. A comma within parentheses,
        brackets or double quotes belongs to a value.
      generator: the model.
      options: what all cells share, by the names of `Generator.plan`.

    Raises:
      UserError: a text has another form, a key is unknown or given twice, a value has another type or is given twice,
        or there are more than two axes or more than `MOST_CELLS` cells.
    """
    if len(texts) > MOST_AXES:
        raise UserError(
            f"sweep {texts[MOST_AXES]!r} is the third one, and a sheet has {MOST_AXES} axes; give {MOST_AXES}, and run "
            "once for each value of the third"
        )
    axes = tuple(_read_axis(text, generator, options) for text in texts)
    if len({axis.name for axis in axes}) < len(axes):
        raise UserError(f"sweep {axes[0].key} is given twice; give all of its values in one")
    cells = math.prod(len(axis.texts) for axis in axes)
    if cells > MOST_CELLS:
        raise UserError(f"the sweep has {cells} cells, and {MOST_CELLS} are the most; give fewer values")
    return axes


def split_values(text: str) -> list[str]:
    """Returns the values of "A,B,C"; a comma within parentheses, brackets or double quotes belongs to its value.

    Raises:
      UserError: a parenthesis, bracket or quote is not closed, or a value is empty.
    """
    found, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        if not quoted:
            depth += (letter in "([") - (letter in ")]")
        if letter == "," and not quoted and depth <= 0:
            found.append("")
        else:
            found[-1] += letter
    if quoted or depth:
        raise UserError(f'the values {text!r} have an open quote or parenthesis; close it, or quote the value in ""')
    found = [_unquoted(one.strip()) for one in found]
    if not all(found):
        raise UserError(f"one of the values {text!r} is empty; write A,B,C")
    return found


def cells_of(axes: Sequence[Axis]) -> list[list[tuple[Axis, int]]]:
    """Returns (axis, place of its value) for the axes of each cell, row by row."""
    places = itertools.product(*(range(len(axis.texts)) for axis in reversed(axes)))
    return [list(zip(axes, reversed(cell), strict=True)) for cell in places]


def words_of(axes: Sequence[Axis], cell: Sequence[tuple[Axis, int]]) -> str:
    """Returns the values of a cell with their keys."""
    return ", ".join(f"{axis.key}={axis.texts[place]}" for axis, place in cell)


def change_calls(generator: Generator, options: Mapping[str, Any], key: str, value: Any) -> dict[str, list[Any]]:
    """Returns {option: its calls}, with one option of one guide or condition changed.

    Args:
      generator: the model.
      options: of the cell.
      key: "GUIDE.OPTION".
      value: the new value.

    Raises:
      UserError: there is not one such guide or condition, or the value does not fit.
    """
    wanted, _, changed = key.partition(".")
    tables = {name: declaration for _, name, declaration in spellings(generator).values() if declaration.table}
    given = {
        name: [calls.parse(_table(one), call, one.what) for call in options.get(name) or ()]
        for name, one in tables.items()
    }
    found = [
        (name, place)
        for name, several in given.items()
        for place, call in enumerate(several)
        if calls.name_of(_table(tables[name]), call) == wanted
    ]
    if len(found) != 1:
        count = len(found) or "no"
        raise UserError(f"{count} guides or conditions named {wanted!r} are given; give one by --guide or --with")
    name, place = found[0]
    table, what = _table(tables[name]), tables[name].what
    call = calls.parse_call(calls.format_call(table, given[name][place]), what)
    replaced = calls.build(table, calls.Call(wanted, {**call.options, changed: value}), what)
    return {name: [*given[name][:place], replaced, *given[name][place + 1 :]]}


def _unquoted(text: str) -> str:
    inner = text[1:-1]
    return inner if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inner else text


def _read_axis(text: str, generator: Generator, options: Mapping[str, Any]) -> Axis:
    key, equals, written = text.partition("=")
    key = key.strip().lstrip("-")
    if not equals or not key:
        raise UserError(f"sweep {text!r} is not of the form KEY=A,B,C, as guidance_scale=1,3,9")
    try:
        texts = split_values(written)
        duplicate = next((one for one in texts if texts.count(one) > 1), None)
        if duplicate is not None:
            raise UserError(f"value {duplicate!r} is given twice; give each once")
        name, found = _read_values(key.replace("-", "_"), texts, generator, options)
    except (UserError, ValueError) as error:
        raise UserError(f"sweep {key}: {error}") from error
    if name == DATABASE:  # a record holds the names of databases and no paths
        texts = [re.split(r"[/\\]", one.rstrip("/\\"))[-1] for one in texts]
    return Axis(key, name, tuple(texts), tuple(found))


def _read_values(
    key: str, texts: Sequence[str], generator: Generator, options: Mapping[str, Any]
) -> tuple[str, list[Any]]:
    """Returns the name of an option, and values in its type; raises UserError or ValueError."""
    if key in (PROMPT, DATABASE):
        return key, list(texts)
    if "." in key:
        literals = [calls.option_value(text) for text in texts]
        for value in literals:
            change_calls(generator, options, key, value)
        return key, literals
    known = spellings(generator)
    if key not in known:
        raise unknown("option", key, [*known, PROMPT, DATABASE])
    cls, name, declaration = known[key]
    if name == "num_images":
        raise UserError("every cell has the same number of images; give --num-images instead")
    return name, [_typed(cls, name, declaration, text) for text in texts]


def _typed(cls: type, name: str, declaration: Declaration, text: str) -> Any:
    if declaration.table:
        return () if text == NONE else (calls.parse(declaration.table(), text, declaration.what),)
    kind = kind_of(cls, name)
    hint: Any = tuple[float, ...] if kind is tuple else kind
    return values.parse(hint, text)


def spellings(generator: Generator) -> dict[str, tuple[type, str, Declaration]]:
    """Returns the options of the request and of the head by their names and flags."""
    found = {}
    for cls in (Request, generator.head.Options):
        for name, declaration in declarations(cls).items():
            flag = flag_of(name, declaration).lstrip("-").replace("-", "_")
            found |= dict.fromkeys((name, flag), (cls, name, declaration))
    return found


def _table(declaration: Declaration) -> Mapping[str, type]:
    assert declaration.table is not None
    return declaration.table()
