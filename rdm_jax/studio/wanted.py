"""What the page requests, as the arguments of `rdm sample`: the same parser, checks, defaults and errors."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rdm_jax.cli import sample
from rdm_jax.cli.main import Parser
from rdm_jax.core import text
from rdm_jax.core.errors import UserError
from rdm_jax.core.options import Declaration, declarations, flag_of
from rdm_jax.heads import all_options
from rdm_jax.request import Request

MOST_PROMPTS = 1000  # of one request
OWN_CONTROLS = ("seed", "num_images", "candidates", "neighbors", "conditions")
"""Options that have a control of their own on the page."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A request of the page.

    Attributes:
      prompts: what to generate; may be empty where there is an image.
      image: a file of uploads that is a query; "" without.
      negative: what to guide away from.
      databases: NAME or NAME:WEIGHT of each, as `rdm sample` takes them.
      content_databases: the same of content neighbors, of a model with two roles.
      options: {name of an option: value}; texts of one call a line for options that take calls.
      rendition: {"svg": bool, "transparent": bool, "size": "256"} of those that are set.
      sweep: "KEY=A,B,C" of each axis.
    """

    prompts: tuple[str, ...]
    image: str = ""
    negative: str = ""
    databases: tuple[str, ...] = ()
    content_databases: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rendition: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sweep: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """Returns the arguments of `rdm sample` but for model and folder; raises UserError for too many prompts."""
        if len(self.prompts) > MOST_PROMPTS:
            raise UserError(
                f"{len(self.prompts)} prompts, and a request takes {MOST_PROMPTS}; give the others in another one"
            )
        repeated = {"--database": self.databases, "--content-database": self.content_databases, "--sweep": self.sweep}
        arguments = [f"{flag}={value}" for flag, values in repeated.items() for value in values]
        arguments += [f"--image={self.image}"] if self.image else []
        arguments += [f"--negative-prompt={self.negative}"] if self.negative else []
        arguments += [part for name, value in self.options.items() for part in _option(name, value)]
        for name, value in self.rendition.items():
            arguments += [f"--{name}"] if value is True else [f"--{name}={value}"] if value else []
        return [*arguments, *(["--", *self.prompts] if self.prompts else [])]

    def parse(self) -> argparse.Namespace:
        """Returns the parsed options of `rdm sample`; raises UserError for the first one that is invalid."""
        parser = Parser(prog="rdm sample")
        sample.add_arguments(parser)
        return parser.parse(self.arguments())

    def command(self, model: str) -> str:
        """Returns the command line that does the same."""
        return shlex.join(["rdm", "sample", f"--model={model}", *self.arguments()])


def option_declarations(head: str) -> dict[str, Declaration]:
    """Returns {name: declaration} of the options of a model's head and of every request, but for `OWN_CONTROLS`."""
    every = {**declarations(Request), **declarations(all_options()[head])}
    return {name: one for name, one in every.items() if name not in OWN_CONTROLS and not one.file}


def default_of(head: str, name: str) -> Any:
    """Returns the default of an option where the model has none of its own."""
    owner = Request if name in declarations(Request) else all_options()[head]
    return getattr(owner(), name)


def lines(given: str | None) -> tuple[str, ...]:
    """Returns the lines of a text that are not empty."""
    return tuple(line.strip() for line in text.lines(given or "") if line.strip())


def weighted(names: Sequence[str], weights: Mapping[str, float]) -> tuple[str, ...]:
    """Returns NAME:WEIGHT of each database, or the names alone where all weights are 1.

    Raises:
      UserError: no weight is above 0.
    """
    used = [(name, weights.get(name, 1.0)) for name in names if weights.get(name, 1.0) > 0]
    if names and not used:
        raise UserError("all databases have the weight 0; give one of them more")
    if all(weight == 1 for _, weight in used):
        return tuple(name for name, _ in used)
    return tuple(f"{name}:{weight:g}" for name, weight in used)


def _option(name: str, value: Any) -> list[str]:
    """Returns the arguments of one option; none for its default."""
    owner = next(one for one in (Request, *all_options().values()) if name in declarations(one))
    declaration = declarations(owner)[name]
    flag = flag_of(name, declaration)
    if value is None or value == "" or value == ():
        return []
    if declaration.table:
        calls = lines(value) if isinstance(value, str) else value
        return [f"{flag}={call}" for call in calls]
    if isinstance(getattr(owner(), name), tuple):
        numbers = str(value).replace(",", " ").split() if isinstance(value, str) else [str(one) for one in value]
        return [flag, *numbers]
    return [f"{flag}={_plain(value)}"]


def _plain(value: Any) -> str:
    """Returns a number as the command line takes it: the page sends whole ones as 8.0 at times."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
