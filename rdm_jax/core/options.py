"""Options declared once, as the fields of a frozen dataclass.

The declaration gives the command line its options and their help, Python its checks, and image files the record from
which a run is repeated.
"""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rdm_jax.core import calls
from rdm_jax.core.calls import format_call, parse
from rdm_jax.core.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What an option's field says beside its type and default.

    Attributes:
      help: one clause for `--help`.
      metavar: how `--help` names the value.
      flag: of the command line; the field's name with hyphens if empty.
      label: the key in the `parameters` text of an image file; "" leaves the option out of it.
      table: for options whose values are calls ("sdg(text='neon')"): returns {name: class}, imported when needed.
      what: what such a value is, for errors ("guide").
      file: whether the value names a file.
      everywhere: whether each verb that generates images has it; otherwise verbs add it themselves.
    """

    help: str
    metavar: str = "X"
    flag: str = ""
    label: str = ""
    table: Callable[[], Mapping[str, type]] | None = None
    what: str = ""
    file: bool = False
    everywhere: bool = True


def option(default: Any, help: str, **details: Any) -> Any:
    """Returns the dataclass field of an option.

    Args:
      default: its value where neither the user nor the model gives one.
      help: one clause.
      **details: the other fields of `Declaration`.
    """
    return dataclasses.field(default=default, metadata={"option": Declaration(help, **details)})


def declarations(cls: type) -> dict[str, Declaration]:
    """Returns {name: declaration} of the options of a dataclass."""
    return {field.name: field.metadata["option"] for field in dataclasses.fields(cls) if "option" in field.metadata}


def flag_of(name: str, declaration: Declaration) -> str:
    """Returns an option's flag on the command line."""
    return declaration.flag or f"--{name.replace('_', '-')}"


def kind_of(cls: type, name: str) -> type:
    """Returns the type of an option, that of its default: int, float, str, or tuple for calls and pairs."""
    return next(type(field.default) for field in dataclasses.fields(cls) if field.name == name)


def build(cls: type, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    """Returns the options of a dataclass.

    Args:
      cls: the dataclass.
      given: the requested values; None takes the default.
      defaults: the model's own values, before those of the declaration.

    Raises:
      UserError: there is no such option, or a value is of another type.
    """
    declared = declarations(cls)
    values: dict[str, Any] = {}
    for name, value in {**defaults, **{key: value for key, value in given.items() if value is not None}}.items():
        if name not in declared:
            raise unknown("option", name, declared)
        values[name] = _typed(cls, name, declared[name], value)
    return cls(**values)


def to_json(options: Any) -> dict[str, Any]:
    """Returns options as JSON values, from which `from_json` makes equal ones."""
    declared, values = declarations(type(options)), {}
    for name, declaration in declared.items():
        value = getattr(options, name)
        if declaration.table:
            values[name] = [format_call(declaration.table(), one) for one in value]
        else:
            values[name] = list(value) if isinstance(value, tuple) else value
    return values


def from_json(cls: type, values: Mapping[str, Any]) -> Any:
    """Returns the options that `to_json` wrote.

    Raises:
      UserError: an option is unknown, or a value is of another type.
    """
    return build(cls, values, {})


def files_of(options: Any) -> list[str]:
    """Returns the names of all files that options name, those in calls ("inpaint(mask='m.png')") too."""
    names: list[str] = []
    for name, declaration in declarations(type(options)).items():
        value = getattr(options, name)
        if declaration.table:
            names += [file for one in value for file in calls.files_of(one)]
        elif declaration.file and value:
            names.append(value)
    return list(dict.fromkeys(names))


def labelled(options: Any) -> dict[str, Any]:
    """Returns {label: value} of the options that the `parameters` text shows."""
    declared = declarations(type(options))
    return {one.label: getattr(options, name) for name, one in declared.items() if one.label}


def _typed(cls: type, name: str, declaration: Declaration, value: Any) -> Any:
    """Returns a value as the option's type."""
    kind = kind_of(cls, name)
    if declaration.table:
        several = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        return tuple(parse(declaration.table(), one, declaration.what) for one in several)
    try:
        if kind is int:
            return operator.index(value)
        if kind is float and not isinstance(value, bool | str):
            return float(value)
        if kind is tuple and isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(float(one) for one in value)
        if kind is str and isinstance(value, str | os.PathLike):
            return os.fspath(value)
    except (TypeError, ValueError):
        pass
    words = {int: "a whole number", float: "a number", tuple: "a pair of numbers", str: "a text"}
    raise UserError(f"{name.replace('_', ' ')} {value!r} is not {words[kind]}")
