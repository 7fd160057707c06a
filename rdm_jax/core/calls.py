"""Objects written as calls, "euler(churn=20)": text to an object of a table's classes, and back.

A table maps names to frozen dataclasses whose fields are the options; each has a default and a type hint: `int`,
`float`, `str`, `bool`, a list of one of these, or a union; a text that names a file has the type `File`. Values are
parsed as literals and never evaluated.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from rdm_jax.core.errors import UserError, unknown

_WORDS = {int: "an integer", float: "a number", str: "a text in quotes", bool: "True or False"}
_PLURALS = {int: "integers", float: "numbers", str: "texts in quotes", bool: "True or False"}


File = Annotated[str, "names a file"]


@dataclasses.dataclass(frozen=True)
class Call:
    """A name with its options."""

    name: str
    options: dict[str, Any]


def parse(table: Mapping[str, type], value: Any, what: str) -> Any:
    """Returns the object that a text describes; an instance of one of the table's classes is returned unchanged.

    Args:
      table: classes by name.
      value: "name", "name(option=value, ...)", or an object.
      what: what the table's objects are, for errors ("guide").

    Raises:
      UserError: the text is no such call, a name or an option is unknown, or a value is of another type.
    """
    if isinstance(value, str):
        return build(table, parse_call(value, what), what)
    if type(value) not in table.values():
        classes = ", ".join(cls.__name__ for cls in table.values())
        raise UserError(f"{what} {value!r} is neither a text nor an object of these classes: {classes}")
    return value


def format_call(table: Mapping[str, type], value: Any) -> str:
    """Returns the text that `parse` turns into an equal object; only options that differ from their defaults.

    Args:
      table: classes by name.
      value: an instance of one of them.
    """
    cls, name = type(value), name_of(table, value)
    options = _typed(cls, _values(value), cls.__name__)
    changed = [
        f"{field.name}={_literal(options[field.name])}"
        for field in dataclasses.fields(value)
        if options[field.name] != field.default
    ]
    return f"{name}({', '.join(changed)})" if changed else name


def name_of(table: Mapping[str, type], value: Any) -> str:
    """Returns the name of an object's class in a table."""
    return next(name for name, registered in table.items() if registered is type(value))


def parse_call(text: str, what: str) -> Call:
    """Returns the name and the options of "name" or "name(option=value, ...)"; values are literals.

    Args:
      text: the call.
      what: what it describes, for errors.

    Raises:
      UserError: the text is no such call.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        function, keywords = (node.func, node.keywords) if isinstance(node, ast.Call) else (node, [])
        positional = node.args if isinstance(node, ast.Call) else []
        if not isinstance(function, ast.Name) or positional or any(keyword.arg is None for keyword in keywords):
            raise ValueError(text)
        return Call(function.id, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords})
    except (SyntaxError, ValueError) as error:
        raise UserError(
            f"{what} {text!r} is not of the form name(number=20, text='a boat'); texts stand in quotes"
        ) from error


def option_value(text: str) -> Any:
    """Returns the value that a text has as an option of a call; the text itself where it is written without quotes."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def build(table: Mapping[str, type], call: Call, what: str) -> Any:
    """Returns the object that a call describes.

    Args:
      table: classes by name.
      call: name and options.
      what: what the table's objects are, for errors.

    Raises:
      UserError: the name or an option is unknown, or a value is of another type than the option.
    """
    if call.name not in table:
        raise unknown(what, call.name, table)
    cls = table[call.name]
    names = [field.name for field in dataclasses.fields(cls)]
    for option in call.options:
        if option not in names:
            raise unknown(f"option of {what} {call.name}:", option, names)
    return cls(**_typed(cls, call.options, f"{what} {call.name}"))


def files_of(instance: Any) -> list[str]:
    """Returns the names of the files in the fields of type `File` of a dataclass; empty ones name none."""
    return [value for name in file_fields(type(instance)) if (value := getattr(instance, name))]


def file_fields(cls: type) -> list[str]:
    """Returns the names of a dataclass's fields of type `File`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [field.name for field in dataclasses.fields(cls) if hints[field.name] == File]


def set_types(instance: Any) -> None:
    """Converts the fields of a frozen dataclass to their declared types; for `__post_init__`.

    Raises:
      UserError: a value is of another type than its field.
    """
    cls = type(instance)
    for name, value in _typed(cls, _values(instance), cls.__name__).items():
        object.__setattr__(instance, name, value)


def describe(name: str, cls: type, remark: str = "") -> str:
    """Returns two lines about a class: its name and options with their defaults; what it does, and a remark."""
    options = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(cls))
    first = (cls.__doc__ or "").strip().split("\n\n")[0]
    return f"{name}({options})\n    {' '.join(first.split())}{f' [{remark}]' if remark else ''}"


def _values(instance: Any) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}


def _typed(cls: type, options: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Returns options in the declared types of a dataclass; `owner` is named in errors."""
    typed, hints = {}, _hints(cls)
    for name, value in options.items():
        members = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
        fitting = [found for found in (_as_type(value, member) for member in members) if found is not None]
        if not fitting:
            wanted = " or ".join(map(_words, members))
            default = next(field.default for field in dataclasses.fields(cls) if field.name == name)
            raise UserError(f"{owner}: {name}={value!r} is not {wanted}; its default is {default!r}")
        typed[name] = fitting[0]
    return typed


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _as_type(value: Any, hint: Any) -> Any:
    """Returns a value as a type of `_WORDS` or a list of one; None if it does not fit."""
    if typing.get_origin(hint) is list:
        if not isinstance(value, list | tuple) or not value:
            return None
        entries = [_as_type(entry, typing.get_args(hint)[0]) for entry in value]
        return None if any(entry is None for entry in entries) else entries
    is_bool = isinstance(value, bool)
    if hint is int and isinstance(value, numbers.Integral) and not is_bool:
        return int(value)
    if hint is float and isinstance(value, numbers.Real) and not is_bool:
        return _as_float(value)
    return hint(value) if hint in (str, bool) and isinstance(value, hint) else None


def _as_float(value: Any) -> float | None:
    """Returns a float; None for NaN and for integers that no float holds."""
    try:
        return None if math.isnan(value) else float(value)
    except OverflowError:
        return None


def _words(hint: Any) -> str:
    """Returns a type in words, for errors."""
    return f"a list of {_PLURALS[typing.get_args(hint)[0]]}" if typing.get_origin(hint) is list else _WORDS[hint]


def _literal(value: Any) -> str:
    """Returns the literal of a value, exactly."""
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"  # there is no literal of infinity
    return repr(value).removesuffix(".0") if isinstance(value, float) else repr(value)
