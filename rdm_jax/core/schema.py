"""Reading nested settings by a schema: a frozen dataclass whose fields are keys, with their types and defaults.

    read(Schema, {"steps": 100, "optimizer": {"warmup": 5}})

A field without a default is a required key, a field whose type is a dataclass a section. `Annotated` adds checks:
`one_of`, `within`, and `Fields` for a section whose keys are the fields of a class that the section itself names.
`__post_init__` of a dataclass checks fields against each other.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rdm_jax.core import values as texts
from rdm_jax.core.errors import UserError, unknown

Check = Callable[[str, Any], Any]
"""(key, value) to the value, changed or as it is; raises UserError for an invalid one."""


class Text(str):
    """A value as the command line has it: a text, whose type the schema decides (`core.values`)."""


def read(schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with the schema's defaults filled in, every value checked.

    Args:
      schema: a frozen dataclass.
      values: nested mappings of plain values, or of `Text` from the command line.

    Raises:
      UserError: a key is unknown or missing, or a value is of another type or invalid.
    """
    return dataclasses.asdict(_section(schema, values, ""))


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Puts a value at a dotted key into nested dictionaries, which it makes where there are none."""
    *parents, last = key.split(".")
    for name in parents:
        inner = values.get(name)
        values[name] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[name]
    values[last] = value


def one_of(allowed: Iterable[str]) -> Check:
    """Returns the check that a value is one of some names."""

    def check(key: str, value: Any) -> Any:
        """Returns the name."""
        if value not in allowed:
            raise unknown(key, str(value), allowed)
        return value

    return check


def within(least: int | float, most: int | float = float("inf")) -> Check:
    """Returns the check that a number, or each one of several, is at least `least` and at most `most`."""

    def check(key: str, value: Any) -> Any:
        """Returns the number or numbers."""
        for number in value if isinstance(value, tuple) else (value,):
            if not least <= number <= most:
                limits = f"{least} or more" if most == float("inf") else f"a number from {least} to {most}"
                raise UserError(f"config key {key}={number} is out of range; give {limits}")
        return value

    return check


def matching(pattern: str, what: str) -> Check:
    """Returns the check that a text matches a pattern; `what` says in words what it is."""

    def check(key: str, value: Any) -> Any:
        """Returns the text."""
        if not re.fullmatch(pattern, value):
            raise UserError(f"config key {key}={value[:80]!r} is not {what}")
        return value

    return check


@dataclasses.dataclass(frozen=True)
class Fields:
    """A section whose keys are fields of a class. Absent keys stay absent: the class has the defaults.

        model: Annotated[Mapping[str, Any], Fields(BACKBONES, filled=("in_channels",))]

    Attributes:
      classes: {name: class}; the section's key `by` names the class.
      by: that key; "" where there is one class alone, whatever its name.
      filled: fields that follow from other things and are no keys.
      checks: {field: check}.
      optional: whether the section may be empty.
      default: the class where the section does not name one; "" where it must.
    """

    classes: Mapping[str, type]
    by: str = "kind"
    filled: tuple[str, ...] = ()
    checks: Mapping[str, Check] = dataclasses.field(default_factory=dict)
    optional: bool = False
    default: str = ""

    def read(self, key: str, value: Any) -> dict[str, Any]:
        """Returns the section at a key, its values of the fields' types."""
        values = dict(section_values(key, value))
        if self.optional and not values:
            return values
        cls, chosen = self._class(key, values)
        hints = _hints(cls)
        fields = [f for f in dataclasses.fields(cls) if f.name not in ("parent", "name", *self.filled)]
        names, required = [f.name for f in fields], [f.name for f in fields if _is_required(f, hints)]
        _check_keys(values, names, required, key, [self.by] if self.by else [])
        read = {name: _value(hints[name], values[name], f"{key}.{name}") for name in values}
        checked = {name: check(f"{key}.{name}", read[name]) for name, check in self.checks.items() if name in read}
        return {**chosen, **read, **checked}

    def _class(self, key: str, values: dict[str, Any]) -> tuple[type, dict[str, Any]]:
        """Returns the class of a section and the key that names it, which is taken out of `values`."""
        if not self.by:
            return next(iter(self.classes.values())), {}
        if self.by not in values and self.default:
            values[self.by] = self.default
        if self.by not in values:
            raise missing(f"{key}.{self.by}")
        name = str(values.pop(self.by))
        if name not in self.classes:
            raise unknown(f"{key}.{self.by}", name, self.classes)
        return self.classes[name], {self.by: name}


def _section(schema: type, value: Any, key: str) -> Any:
    """Returns an instance of a dataclass from a section's values."""
    values, fields, hints = section_values(key, value), dataclasses.fields(schema), _hints(schema)
    required = [field.name for field in fields if _is_required(field, hints)]
    _check_keys(values, [field.name for field in fields], required, key)
    prefix = f"{key}." if key else ""
    given = {name: _value(hints[name], values[name], prefix + name) for name in values}
    absent = [f.name for f in fields if f.name not in values and dataclasses.is_dataclass(hints[f.name])]
    return schema(**given, **{name: _section(hints[name], {}, prefix + name) for name in absent})


def section_values(key: str, value: Any) -> Mapping[str, Any]:
    """Returns the values of the section at a key; raises UserError if it is none."""
    try:
        entries = (
            {name: Text(text) for name, text in texts.section(value).items()} if isinstance(value, Text) else value
        )
    except ValueError:
        entries = None
    if not isinstance(entries, Mapping):
        raise UserError(f"config key {key} is {str(value)!r}, and it is a section; give its keys, as {key}.KEY=VALUE")
    return entries


def _check_keys(
    values: Mapping[str, Any], names: Sequence[str], required: Sequence[str], key: str, others: Sequence[str] = ()
) -> None:
    """Raises UserError for the first unknown key and the first missing one."""
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in names:
            raise unknown("config key", f"{prefix}{name}", [f"{prefix}{known}" for known in (*others, *names)])
    for name in required:
        if name not in values:
            raise missing(f"{prefix}{name}")


def missing(key: str) -> UserError:
    """Returns the error for a required key that is not there."""
    return UserError(f"the config lacks {key}; set it in the file, or give --config.{key}=VALUE")


def _is_required(field: dataclasses.Field[Any], hints: Mapping[str, Any]) -> bool:
    """Says whether a key has no default; a section that is absent has those of its own keys."""
    unset = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return unset and not dataclasses.is_dataclass(hints[field.name])


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _value(hint: Any, value: Any, key: str) -> Any:
    """Returns a value as a type.

    Raises:
      UserError: it is of another type, or a check refuses it.
    """
    if get_origin(hint) is Annotated:
        inner, *checks = get_args(hint)
        if isinstance(checks[0], Fields):
            return checks[0].read(key, value)
        return functools.reduce(lambda checked, check: check(key, checked), checks, _value(inner, value, key))
    if dataclasses.is_dataclass(hint):
        return _section(typing.cast(type, hint), value, key)
    wrong = UserError(f"config key {key} is {str(value)!r}, and must be {texts.words(hint)}")
    if isinstance(value, Text):
        try:
            parsed = texts.parse(hint, value)
        except ValueError as error:
            raise wrong from error
        return _converted(hint, parsed, key) if _is_mapping(hint) else parsed
    converted = _converted(hint, value, key)
    may_be_none = hint is Any or type(None) in get_args(hint)
    if converted is None and not (value is None and may_be_none):
        if isinstance(value, Mapping) and value and not _is_mapping(hint):
            raise unknown("config key", f"{key}.{next(iter(value))}", [key])
        raise wrong
    return converted


def _converted(hint: Any, value: Any, key: str) -> Any:
    """Returns a plain value as a type, None where it is of another.

    Args:
      hint: the type: int, float, str, bool, tuple, Mapping, Literal, a union of them, or Any.
      value: a plain value.
      key: where it is.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        found = (_converted(one, value, key) for one in arguments if one is not type(None))
        return next((one for one in found if one is not None), None)
    if origin is tuple:
        return _tuple(arguments, value, key)
    if _is_mapping(hint):
        if not isinstance(value, Mapping):
            return None
        inner = arguments[1] if arguments else Any
        return {str(name): _value(inner, each, f"{key}.{name}") for name, each in value.items()}
    if origin is Literal:
        return value if value in arguments else None
    if hint is float:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return value if hint is Any or type(value) is hint else None


def _tuple(hints: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...] | None:
    if not isinstance(value, list | tuple):
        return None
    each = [hints[0]] * len(value) if len(hints) == 2 and hints[1] is ... else list(hints)
    converted = [_converted(hint, one, key) for hint, one in zip(each, value, strict=False)]
    fits = len(each) == len(value) and all(one is not None for one in converted)
    return tuple(converted) if fits else None


def _is_mapping(hint: Any) -> bool:
    return (get_origin(hint) or hint) in (dict, Mapping)
