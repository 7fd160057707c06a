"""What the page requests, as the arguments of `rdm sample`: the same parser, checks, defaults and errors."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rdm_jax.cli import sample
from rdm_jax.cli.main import Parser
from rdm_jax.core import text, values
from rdm_jax.core.calls import file_fields, files_of, format_call, parse
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.options import Declaration, declarations, flag_of
from rdm_jax.heads import all_options
from rdm_jax.request import NEEDED_PARTS, Request

MOST_PROMPTS = 1000  # of one request
OF_THE_COMMAND_LINE = re.compile(r"^argument -*|; see rdm sample --help$")
OWN_CONTROLS = ("seed", "num_images", "candidates", "neighbors")
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
        try:
            return parser.parse(self.arguments())
        except UserError as error:
            raise UserError(OF_THE_COMMAND_LINE.sub("", str(error))) from error

    def placed(self, place: Callable[[str], str]) -> Wanted:
        """Returns the request with the places of the databases that its conditions name.

        Args:
          place: from a name to the place; raises UserError for a name that is not listed.

        Raises:
          UserError: an option is unknown, or a call is invalid.
        """

        def of_call(call: Any) -> Any:
            """Returns a parsed call with its database's place."""
            named = getattr(call, "database", "")
            return dataclasses.replace(call, database=place(named)) if named else call

        options = dict(self.options)
        for name, value in options.items():
            declaration = declarations(_owner(name))[name]
            if declaration.table and value:
                table, calls = declaration.table(), _parsed(declaration, value)
                options[name] = tuple(format_call(table, of_call(call)) for call in calls)
        return dataclasses.replace(self, options=options)

    def reads(self) -> list[str]:
        """Returns the files that options name, those of guides and conditions too.

        Raises:
          UserError: an option is unknown, a call is invalid, or a sweep goes over what reads files.
        """
        files = []
        for name, value in self.options.items():
            declaration = declarations(_owner(name))[name]
            files += [str(value)] if declaration.file and value else []
            files += [file for call in _parsed(declaration, value) for file in files_of(call)]
        for key in (axis.partition("=")[0].strip() for axis in self.sweep):
            if _reads_files(key):
                raise UserError(f"{key} reads files, and a sweep on the page goes over numbers and names; leave it out")
        return files

    def command(self, model: str) -> str:
        """Returns the command line that does the same."""
        return shlex.join(["rdm", "sample", f"--model={model}", *self.arguments()])


def option_declarations(head: str) -> dict[str, Declaration]:
    """Returns {name: declaration} of the options of a model's head and of every request, but for `OWN_CONTROLS`."""
    every = {**declarations(Request), **declarations(all_options()[head])}
    return {name: one for name, one in every.items() if name not in OWN_CONTROLS and not one.file}


def options_of_model(config: Mapping[str, Any]) -> dict[str, Declaration]:
    """Returns {name: declaration} of the options that a model has, by its configuration."""
    declared = option_declarations(config["head"])
    return {name: one for name, one in declared.items() if name not in NEEDED_PARTS or NEEDED_PARTS[name] in config}


def blamed(error: str) -> str:
    """Returns the name of the control that an error is about: an option, "prompts" or "databases"; "" if none is named.

    Args:
      error: its line, which names what is wrong before what is allowed.
    """
    options = {name for head in all_options() for name in option_declarations(head)}
    complaint = re.split(r"[;(]", error, maxsplit=1)[0].lower()
    found = {}
    for name in sorted({*options, *OWN_CONTROLS, "prompts", "databases"}):
        words = re.sub("[_ ]", "[ _-]", name.removesuffix("s"))
        if match := re.search(rf"(?<!\w){words}s?(?!\w)", complaint):
            found[name] = match.start()
    return min(found, key=lambda name: (found[name], -len(name)), default="")


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


def _owner(name: str) -> Any:
    """Returns what declares an option; raises UserError if nothing does."""
    owners = (Request, *all_options().values())
    found = next((one for one in owners if name in declarations(one)), None)
    if found is None:
        raise unknown("option", name, {key for one in owners for key in declarations(one)})
    return found


def _reads_files(key: str) -> bool:
    """Returns whether the key of a sweep is an option that names files, or such an option of guides or conditions."""
    every = {name: one for owner in (Request, *all_options().values()) for name, one in declarations(owner).items()}
    _, dot, field = key.partition(".")
    if dot:
        classes = [cls for one in every.values() if one.table for cls in one.table().values()]
        return field == "database" or any(field in file_fields(cls) for cls in classes)
    named = [one for name, one in every.items() if key.lstrip("-") in (name, flag_of(name, one).lstrip("-"))]
    return any(one.file or one.table for one in named)


def _calls(value: Any) -> Sequence[str]:
    """Returns the calls of an option: texts, or one text with a call on each line."""
    return lines(value) if isinstance(value, str) else value


def _parsed(declaration: Declaration, value: Any) -> list[Any]:
    """Returns the guides or conditions of an option; none where it takes no calls."""
    table = declaration.table() if declaration.table else {}
    return [parse(table, call, declaration.what) for call in _calls(value)] if table and value else []


def _option(name: str, value: Any) -> list[str]:
    """Returns the arguments of one option; none for its default."""
    owner = _owner(name)
    declaration = declarations(owner)[name]
    flag = flag_of(name, declaration)
    if value is None or value == "" or value == ():
        return []
    if declaration.table:
        return [f"{flag}={call}" for call in _calls(value)]
    if isinstance(getattr(owner(), name), tuple):
        return [flag, *_numbers(name, value)]
    return [f"{flag}={_plain(value)}"]


def _numbers(name: str, value: Any) -> list[str]:
    """Returns the numbers of an option, which are no other arguments; raises UserError for anything else."""
    given = str(value).replace(",", " ").split() if isinstance(value, str) else [str(one) for one in value]
    try:
        for one in given:
            values.parse(float, one)
    except ValueError as error:
        raise UserError(f"{name} {value!r} are no numbers; write them with spaces between") from error
    return given


def _plain(value: Any) -> str:
    """Returns a number as the command line takes it: the page sends whole ones as 8.0 at times."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
