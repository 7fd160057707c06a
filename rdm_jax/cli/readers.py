"""How argparse reads the values of options: by the package's own readers, in one line where a value is invalid."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rdm_jax.core import paths, values
from rdm_jax.core.errors import UserError

MOST = 10**9  # of counts that nothing else limits: more is a slip
MAX_SEED = 2**32 - 1


def number(kind: type, least: int | float, most: int | float = math.inf) -> Callable[[str], Any]:
    """Returns the reader of a number in a range.

    Args:
      kind: int or float.
      least: the smallest value.
      most: the largest one; a float is finite in any case.
    """

    def read(text: str) -> Any:
        """Returns the number."""
        value = READERS[kind](text)
        if not least <= value <= most or math.isinf(value):
            allowed = f"{least} or more" if math.isinf(most) else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is out of range; give {allowed}")
        return value

    return read


def _reader(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Returns a reader for argparse, which shows the message of its own error alone."""

    def read(text: str) -> Any:
        """Returns the value."""
        try:
            return parse(text)
        except (ValueError, UserError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _not_empty(text: str) -> str:
    if not text:  # a shell makes it of an unset variable
        raise ValueError("the value is empty; give one, or leave it out")
    return text


READERS: dict[Any, Callable[[str], Any]] = {
    int: _reader(functools.partial(values.parse, int)),
    float: _reader(functools.partial(values.parse, float)),
    Path: _reader(paths.local),
    str: _reader(_not_empty),
    None: _reader(_not_empty),
}
"""By the `type` that an option declares; None where it declares none."""
