"""Choices written as calls, "euler(churn=20)": a name and its options, parsed as literals and never evaluated."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any

from rdm_jax.core.errors import UserError, unknown

OR_A_LIST: Mapping[str, bool] = {"list": True}  # metadata of a number's field that may be a list of them


@dataclasses.dataclass(frozen=True)
class Call:
    """A name with its options."""

    name: str
    options: dict[str, Any]


def parse_call(text: str, what: str) -> Call:
    """Returns the name and the options of "name" or "name(option=value, ...)"; values are numbers, texts or lists.

    Args:
      text: what is parsed.
      what: it is, for the error.

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


def made(kinds: Mapping[str, type], call: Call, what: str) -> Any:
    """Returns the dataclass that a call names, made with its options.

    Args:
      kinds: the dataclasses by their names.
      call: what is asked for.
      what: it is, for errors ("sampler").

    Raises:
      UserError: the name or an option is unknown, or a value is of another kind than the option's default.
    """
    if call.name not in kinds:
        raise unknown(what, call.name, kinds)
    fields = {field.name: field for field in dataclasses.fields(kinds[call.name])}
    for option, value in call.options.items():
        if option not in fields:
            raise unknown(f"option of {what} {call.name}:", option, fields)
        default = fields[option].default
        fits = _is_number(value) or (_is_list(value) and "list" in fields[option].metadata)
        if not (fits if isinstance(default, int | float) else isinstance(value, type(default))):
            kind = "a number" if isinstance(default, int | float) else "a text in quotes"
            raise UserError(f"{what} {call.name}: {option}={value!r} is not {kind}; its default is {default!r}")
    return kinds[call.name](**{name: _as_floats(value) for name, value in call.options.items()})


def described(name: str, kind: type, remark: str) -> str:
    """Returns two lines that say what a name takes and does: its options with their defaults, its docstring."""
    options = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(kind))
    return f"{name}({options})\n    {' '.join((kind.__doc__ or '').split())} [{remark}]"


def _as_floats(value: Any) -> Any:
    """Returns a value with floats for whole numbers, in a list too."""
    if isinstance(value, list):
        return [float(one) for one in value]
    return float(value) if isinstance(value, int) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_number, value))
