"""`rdm VERB ...`: imports the verb's module and no other, and turns errors into one line and an exit status.

A verb's module has `HELP: str`, `add_arguments(parser)` and `run(args) -> int | None`; one whose options argparse
cannot declare (`rdm train --config.KEY=VALUE`) also has `rewrite_arguments(arguments) -> arguments`.

Exit status: 0 for success, 1 for an error, 2 for bad input, 130 for an interruption.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import io
import itertools
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from rdm_jax.cli.progress import note, shown_log
from rdm_jax.cli.readers import READERS
from rdm_jax.core import paths
from rdm_jax.core.errors import UserError, unknown


class Verb(NamedTuple):
    """A verb's module, and its line in `rdm --help`, which is here so that the help imports nothing."""

    module: str
    help: str


VERBS = {
    "sample": Verb("rdm_jax.cli.sample", "generate images for prompts with the neighbors of a database"),
    "edit": Verb("rdm_jax.cli.edit", "inpaint, outpaint, vary, invert or mix an image"),
    "replay": Verb("rdm_jax.cli.replay", "generate an image again from the parameters inside its PNG"),
    "database": Verb("rdm_jax.cli.database", "build and inspect databases of images to retrieve from"),
    "neighbors": Verb("rdm_jax.cli.neighbors", "compute the neighbors of a training set ahead of time"),
    "train": Verb("rdm_jax.cli.train", "train a model from a config"),
    "info": Verb("rdm_jax.cli.info", "describe a training run"),
    "export": Verb("rdm_jax.cli.export", "write the bundle of a trained model"),
    "push": Verb("rdm_jax.cli.push", "upload a model or a database to the Hugging Face Hub"),
    "convert": Verb("rdm_jax.cli.convert", "convert released weights to a model bundle"),
    "evaluate": Verb("rdm_jax.cli.evaluate", "measure a model"),
    "studio": Verb("rdm_jax.cli.studio", "open a page on this machine to generate images and look at their neighbors"),
    "ablate": Verb("rdm_jax.cli.ablate", "train or sample, measure and plot a grid of settings"),
    "report": Verb("rdm_jax.cli.report", "compare training runs, evaluations and generated images"),
    "env": Verb("rdm_jax.cli.env", "print what a report of a bug needs: versions, devices, settings"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError`, suggests similar options and accepts positionals between options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.children: Any = None
        self._intermixing = False
        for kind, read in READERS.items():
            self.register("type", kind, read)

    def add_subparsers(self, **kwargs: Any) -> Any:
        """Adds sub-verbs and keeps them, so that suggestions for an unknown option include theirs."""
        self.children = super().add_subparsers(**kwargs)
        self.children.type = _as_it_is  # the rest of the command line, which the sub-verb's parser reads
        return self.children

    def error(self, message: str) -> NoReturn:
        """Raises the parser's message as a `UserError`."""
        raise UserError(f"{message}; see {self.prog} --help")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Returns the parsed arguments.

        Raises:
          UserError: an option is unknown, a value is missing or cannot be read.
        """
        parsed, extras = self.parse_known_args(list(arguments))
        if extras:
            raise self._unexpected(extras)
        return parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses the known arguments; without sub-verbs, argparse accepts positionals between options."""
        if self.children or self._intermixing:
            return super().parse_known_args(args, namespace)
        self._intermixing = True
        try:
            placed = [_Placed.at(place, argument) for place, argument in enumerate(args)]
            parsed, extras = self.parse_known_intermixed_args(placed, namespace)
        finally:
            self._intermixing = False
        self._check_together(parsed, args)
        return parsed, extras

    def _check_together(self, parsed: argparse.Namespace, args: Sequence[str]) -> None:
        """Raises UserError where positionals of one list stand apart: one of them is more likely an option's value."""
        for action in self._actions:
            if action.option_strings or action.nargs not in ("*", "+"):
                continue
            places = [one.place for one in getattr(parsed, action.dest) or () if isinstance(one, _Placed)]
            for before, after in itertools.pairwise(places):
                between = [argument for argument in args[before + 1 : after] if argument != "--"]
                if between:
                    raise UserError(
                        f"unexpected argument {args[after]!r} after {' '.join(between)}; "
                        f"give every {action.metavar or action.dest} in one place, before the options or after them"
                    )

    def _unexpected(self, extras: Sequence[str]) -> UserError:
        options = [extra.partition("=")[0] for extra in extras if extra.startswith("-")]
        if not options:
            return UserError(f"unexpected argument {extras[0]!r}; see {self.prog} --help")
        near = difflib.get_close_matches(options[0], self._options(), n=3, cutoff=0.6)
        did_you_mean = f"did you mean {' or '.join(near)}? " if near else ""
        return UserError(f"unknown option {options[0]}; {did_you_mean}See {self.prog} --help")

    def _options(self) -> list[str]:
        children = self.children.choices.values() if self.children else []
        own = re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", self.format_help())
        return sorted({*own, *(option for child in children for option in child._options())})


class _Placed(str):
    """An argument that knows its place on the command line."""

    place: int

    @staticmethod
    def at(place: int, argument: str) -> _Placed:
        """Returns an argument with its place."""
        placed = _Placed(argument)
        placed.place = place
        return placed


def _as_it_is(text: str) -> str:
    """Returns a text."""
    return text


COLLECTED_AFTER = 200_000
"""New objects until Python searches for unreachable cycles. Most objects of a run, modules and traced programs, live to
its end, and with the default of 700 they are searched again and again while it starts."""


def program(argv: Sequence[str] | None = None) -> int:
    """Runs the command line as a process of its own, and returns its exit status; see `main`."""
    gc.set_threshold(COLLECTED_AFTER, *gc.get_threshold()[1:])
    status = main(argv)
    gc.freeze()  # otherwise the interpreter searches all of the libraries' objects once more at its end
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
      argv: the arguments after the program's name, `sys.argv[1:]` by default. `--debug` anywhere shows tracebacks.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the locale may lack a prompt's characters
    set_environment()
    with shown_log(logging.DEBUG if "--debug" in given else logging.INFO) as log:
        return _status([argument for argument in given if argument != "--debug"], log)


def _status(arguments: list[str], log: logging.Logger) -> int:
    """Runs the verb and returns its exit status; reports errors in one line."""
    try:
        status = _exit_status(_decoded(arguments))
        sys.stdout.flush()  # a reader that has left, and a full disk, are seen here and not at exit
        return status
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except BrokenPipeError:
        _close_broken_streams()
        return 1
    except Exception as error:
        line = _one_line(error)
        log.exception(line)  # the log shows the traceback only with --debug
        return 2 if isinstance(error, UserError) else 1


def _decoded(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments as UTF-8, whatever the locale that Python has read them in.

    Raises:
      UserError: the bytes of one are not UTF-8: no prompt, and no name that a record can hold.
    """
    decoded = []
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode()  # fails where Python could not decode the bytes
            decoded.append(argument)
        except UnicodeEncodeError:
            data = os.fsencode(argument)
            try:
                decoded.append(data.decode())
            except UnicodeDecodeError as error:
                shown = data.decode("utf-8", "backslashreplace")
                raise UserError(
                    f"argument {number}, '{shown}', is not UTF-8; write it as UTF-8, or rename the file"
                ) from error
    return decoded


def _close_broken_streams() -> None:
    """Sends what is left for a closed reader (`rdm ... | head`) to nowhere: nothing may fail at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _exit_status(arguments: list[str]) -> int:
    """Runs the verb and returns its exit status; argparse exits itself after --help and --version."""
    try:
        return _dispatch(arguments)
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 0


def _dispatch(arguments: list[str]) -> int:
    at = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    top = _top_parser()
    top.parse(arguments[:at])
    if at == len(arguments):
        top.print_help()
        return 0
    module, args = parsed(arguments[at:])
    return module.run(args) or 0


def parsed(arguments: list[str]) -> tuple[Any, argparse.Namespace]:
    """Returns the module of a verb and its arguments.

    Raises:
      UserError: the verb or an option is unknown, a value is missing or cannot be read.
    """
    name = arguments[0]
    if name not in VERBS:
        raise unknown("verb", name, VERBS, hint="see rdm --help")
    module = importlib.import_module(VERBS[name].module)
    parser = Parser(prog=f"rdm {name}", description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    rewrite = getattr(module, "rewrite_arguments", list)
    return module, parser.parse(rewrite(arguments[1:]))


def set_environment() -> None:
    """Sets the environment variables of JAX and transformers before they are imported, unless the user has set them."""
    cache = paths.local(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rdm_jax"
    # Compiled programs are kept for the next run, however short their compilation was.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # Otherwise transformers warns that PyTorch is missing; only its tokenizers are used.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Images that cannot be read are reported by name; Pillow's own warnings would only repeat that.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _top_parser() -> Parser:
    from rdm_jax import __version__

    width = max(map(len, VERBS))
    parser = Parser(
        prog="rdm",
        usage="rdm [--help] [--version] [--debug] VERB ...",
        description="Retrieval-augmented diffusion: a database of images is the style.",
        epilog="verbs:\n"
        + "\n".join(f"  {name:{width}}  {verb.help}" for name, verb in VERBS.items())
        + '\n\n`rdm VERB --help` explains a verb. Start with: rdm sample "a red boat"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rdm_jax {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (also after the verb)")
    return parser


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return f"error: {text}"
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return "error: out of memory; try a smaller --batch-size, or run with --debug for the details"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror or text}"
    return f"internal error: {type(error).__name__}: {text[:300]}; run again with --debug for the traceback"
