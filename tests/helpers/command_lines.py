"""Whether a command line is one of today's: read by the parser of its program, and what it names exists."""

from __future__ import annotations

import argparse
import functools
import importlib
import re
from collections.abc import Callable, Sequence

from rdm_jax.ablation.grid import read_grid
from rdm_jax.cli.main import VERBS, Parser, parsed
from rdm_jax.training.config import config_values, load_config
from tests.helpers.pages import ROOT

SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
OPTION = re.compile(r"(?<![\w.-])--[a-z][\w-]*")


def rdm(words: Sequence[str]) -> argparse.Namespace:
    """Returns the arguments of an `rdm` command, with the settings of its config checked.

    Args:
      words: after `rdm`.

    Raises:
      UserError: as the command would.
    """
    _, args = parsed(list(words))
    if words[0] == "train" and args.config:
        load_config(args.config, args.overrides)
    if words[0] == "ablate" and args.config:
        read_grid(config_values(args.config))
    return args


def check(words: Sequence[str]) -> None:
    """Raises AssertionError or UserError for a command line that is not one of today's."""
    program = words[0].rpartition("/")[2] if words[0].endswith("python") else words[0]
    assert program in PROGRAMS or (ROOT / program).is_file(), f"nothing is known of the program {program}"
    PROGRAMS.get(program, _script)(list(words))


@functools.cache
def options_of(command: str) -> frozenset[str]:
    """Returns the options of a command of `rdm`, "sample" or "database build"; where no action is named, of all."""
    verb, _, action = command.partition(" ")
    parser = Parser(prog=f"rdm {verb}")
    importlib.import_module(VERBS[verb].module).add_arguments(parser)
    children = dict(parser.children.choices) if parser.children else {}
    chosen = [children[action]] if action in children else [parser, *children.values()]
    return frozenset(option for one in chosen for entry in one._actions for option in entry.option_strings)


def _rdm(words: list[str]) -> None:
    rdm(words[1:])


def _python(words: list[str]) -> None:
    place = words[2].replace(".", "/") + "/__main__.py" if words[1] == "-m" else words[1]
    place = place if (ROOT / place).exists() else place.replace("/__main__.py", ".py")
    _script([place, *words[1:]])


def _script(words: list[str]) -> None:
    """A script of the repository: it exists, and its text has each option that stands before those of `rdm`."""
    own = words[: words.index("--")] if "--" in words else words
    text = (ROOT / words[0]).read_text(encoding="utf-8")
    unknown = [word for word in own if OPTION.match(word) and word.partition("=")[0] not in OPTION.findall(text)]
    assert not unknown, f"{words[0]} has no {unknown}"
    if "--" in words:
        rdm(words[words.index("--") + 1 :])


def _sbatch(words: list[str]) -> None:
    place = words.index("launch/slurm.sbatch")
    assert (ROOT / words[place]).is_file()
    rdm(words[place + 1 :])


def _make(words: list[str]) -> None:
    for target in words[1:]:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"the Makefile has no target {target}"


def _pip(words: list[str]) -> None:
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        for name in extra.split(","):
            assert f'"{name}": [' in SETUP, f"setup.py has no extra {name}"


def _foreign(words: list[str]) -> None:
    """A program of others: the files of this repository that it is given exist."""
    for word in words[1:]:
        if word.startswith(("launch/", "rdm_jax/", "configs/", "benchmarks/")):
            assert (ROOT / word).exists(), word


FOREIGN = ("dask", "helm", "cp", "docker", "hf", "kubectl", "mkdir", "mv", "npm")
PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "rdm": _rdm,
    "python": _python,
    "sbatch": _sbatch,
    "make": _make,
    "pip": _pip,
    **dict.fromkeys(FOREIGN, _foreign),
}
