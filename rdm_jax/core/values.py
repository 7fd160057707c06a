"""The value of an option: text to the type that the option declares; nothing is guessed from the text.

A text is taken as it is, "/data/set #1" too. A list is written "1,2,3" or "[1, 2, 3]"; its entries may stand in quotes.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

WORDS: Mapping[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}

_INT = re.compile(r"[+-]?[0-9]+(_[0-9]+)*", re.ASCII)
DIGITS = 40  # longer numbers are too large in any case
_NOTHING = ("", "none", "null")


def parse(hint: Any, text: str) -> Any:
    """Returns the value that a text has as a type.

    Args:
      hint: int, float, str, bool, a tuple or mapping of types, Literal, a union of these, or Any: YAML decides.
      text: as the user wrote it.

    Raises:
      ValueError: the text is no such value; the message says what is allowed.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:  # its checks are the schema's
        return parse(arguments[0], text)
    if origin in (Union, types.UnionType):
        return _union(arguments, text)
    if origin is tuple:
        return _entries(arguments, text)
    if (origin or hint) in (dict, Mapping):
        inner = arguments[1] if arguments else Any
        return {name: parse(inner, value) for name, value in section(text).items()}
    if origin is Literal:
        return _literal(arguments, text)
    if hint is Any:
        return _yaml(text, yaml.safe_load)
    return _PARSERS[hint](text)


def section(text: str) -> dict[str, str]:
    """Returns the entries of a section, "{key: value}", as texts; raises ValueError if it is none."""
    node = _yaml(text, yaml.compose)
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{text!r} is no section; write it as {{key: value}}")
    return {_written(name, text): _written(value, text) for name, value in node.value}


def words(hint: Any) -> str:
    """Returns a type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return f"a list, each {words(arguments[0])}"
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if (origin or hint) in (dict, Mapping):
        return "a section"
    if arguments:
        return " or ".join(map(words, arguments))
    return "nothing" if hint is type(None) else WORDS.get(hint, str(hint))


def _int(text: str) -> int:
    if not _INT.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not {words(int)}")
    if len(text) > DIGITS or abs(int(text)) >= 2**63:
        raise ValueError(f"{text[:DIGITS]!r} is too large for a whole number; the most is {2**63 - 1}")
    return int(text)


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{text!r} is not {words(float)}")
    return value


def _bool(text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is not {words(bool)}")
    return text.strip().lower() == "true"


_PARSERS: Mapping[Any, Any] = {int: _int, float: _float, bool: _bool, str: str}


def _union(arguments: tuple[Any, ...], text: str) -> Any:
    """Returns the value of the first type that the text fits; a text fits every other type before `str`."""
    if type(None) in arguments and text.strip().lower() in _NOTHING:
        return None
    for hint in sorted((one for one in arguments if one is not type(None)), key=lambda one: one is str):
        try:
            return parse(hint, text)
        except ValueError:
            continue
    allowed = " or ".join(map(words, arguments))
    raise ValueError(f"{text!r} is not {allowed}")


def _entries(hints: tuple[Any, ...], text: str) -> tuple[Any, ...]:
    """Returns the entries of a list."""
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] == "()":
        stripped = f"[{stripped[1:-1]}]"
    entries = [one.strip() for one in text.split(",") if one.strip()]
    if stripped.startswith("["):
        node = _yaml(stripped, yaml.compose)
        if not isinstance(node, yaml.SequenceNode):
            raise ValueError(f"{text!r} is no list; write it as 1,2,3 or [1, 2, 3]")
        entries = [_written(one, stripped) for one in node.value]
    each = [hints[0]] * len(entries) if len(hints) == 2 and hints[1] is ... else list(hints)
    if len(each) != len(entries):
        raise ValueError(f"{text!r} has {len(entries)} entries and needs {len(each)}")
    return tuple(parse(hint, entry) for hint, entry in zip(each, entries, strict=True))


def _literal(allowed: tuple[Any, ...], text: str) -> Any:
    found = [one for one in allowed if str(one) == text]
    if not found:
        raise ValueError(f"{text!r} is not {' or '.join(map(repr, allowed))}")
    return found[0]


def _yaml(text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ValueError(f"{text!r} cannot be read ({problem})") from error


def _written(node: yaml.Node, text: str) -> str:
    """Returns an entry of a list or a section as it is written, without its quotes."""
    return node.value if isinstance(node, yaml.ScalarNode) else text[node.start_mark.index : node.end_mark.index]


def kind_of(value: Any) -> Any:
    """Returns the type that `parse` takes, of a value that a setting has now; Any where it has none."""
    if isinstance(value, list | tuple):
        inner = {type(one) for one in value}
        one = inner.pop() if len(inner) == 1 else Any
        return typing.cast(Any, tuple)[one if one in _PARSERS else Any, ...]
    return type(value) if type(value) in _PARSERS else Any
