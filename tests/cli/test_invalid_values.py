"""Every option of every command with an invalid value: one line that names it, exit status 2, and no file."""

from __future__ import annotations

import argparse
import importlib
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli import main as cli

SECONDS = 20
# What a command needs beside the option: names of `home`, "image.png" and folders that exist.
MODEL, ENCODER = ["--model", "{home}/model", "--database", "{home}/one"], ["--encoder", "{home}/model"]
EDIT = ["--image", "image.png", *MODEL]
BASES = {
    ("sample",): ["a red boat", *MODEL],
    ("edit", "img2img"): EDIT,
    ("edit", "inpaint"): [*EDIT, "--mask", "image.png"],
    ("edit", "outpaint"): [*EDIT, "--left", "4"],
    ("edit", "vary"): EDIT,
    ("edit", "invert"): EDIT,
    ("edit", "mix"): ["--prompt", "a boat", "--to", "a tree", *MODEL],
    ("replay",): ["image.png"],
    ("database", "build"): ["images", "--out", "new", *ENCODER],
    ("database", "info"): ["{home}/one"],
    ("database", "verify"): ["{home}/one"],
    ("database", "search"): ["{home}/one", "a boat", *ENCODER],
    ("database", "sheet"): ["{home}/one", "--out", "new.png"],
    ("database", "map"): ["{home}/one", "--out", "new.png", *ENCODER],
    ("database", "merge"): ["{home}/one", "--out", "new"],
    ("database", "subset"): ["{home}/one", "--out", "new"],
    ("database", "tune"): ["{home}/one", *ENCODER],
    ("neighbors",): ["--dataset", "images", "--database", "{home}/one", *ENCODER, "--out", "new"],
}
OF_ANOTHER_TYPE = {
    int: ["x", "1.5", "", "1e3", "9" * 30],
    float: ["x", "", "nan", "1,5"],
    Path: ["", "~nobody-here/x"],
    None: [""],
    str: [""],
}
# Such a number is no slip: it means "all", or the option has no effect on so small a database.
TAKEN = {("database build", "--limit"), ("database build", "--part-size"), ("database subset", "--limit")}
TAKEN |= {("database tune", "--leaves"), ("database tune", "--shard-rows")}
OUT_OF_RANGE = {int: ["-1", "9" * 18], float: ["inf", "-inf"]}


def commands() -> dict[tuple[str, ...], cli.Parser]:
    """Returns every command with its parser."""
    found = {}
    for name, verb in cli.VERBS.items():
        module = importlib.import_module(verb.module)
        parser = cli.Parser(prog=f"rdm {name}")
        module.add_arguments(parser)
        children = parser.children.choices if parser.children else {}
        found |= {(name, child): sub for child, sub in children.items()} or {(name,): parser}
    return found


def cases(values: dict[type | None, list[str]]) -> list[tuple[tuple[str, ...], str, str, int]]:
    """Returns (command, flag, value, number of values) of every shown option, for the values of its type."""
    found = []
    for command, parser in commands().items():
        for action in parser._actions:
            if not action.option_strings or action.nargs == 0 or action.help == argparse.SUPPRESS:
                continue
            invalid = (
                ["no-such-choice", ""] if action.choices and "" in values.get(None, []) else values.get(action.type, [])
            )
            count = action.nargs if isinstance(action.nargs, int) else 1
            found += [(command, action.option_strings[-1], value, count) for value in invalid]
    return found


def name_of(part: object) -> str:
    return " ".join(part) if isinstance(part, tuple) else str(part)


@pytest.fixture(autouse=True)
def in_time():
    """Fails a test whose command starts to work instead of refusing the value."""

    def stop(*_):
        raise TimeoutError("the command did not refuse the value")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(rdm, home, tmp_path):
    """An empty folder with an image in it."""
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "image.png")
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "images" / "a.png")
    return home


def refused(place, capsys, command, flag, value, count):
    """Runs a command with an invalid value, and returns its line."""
    base = [part.format(home=place) for part in BASES.get(command, [])]
    before = sorted(Path.cwd().rglob("*"))
    status = cli.main([*command, *base, flag, *[value] * count])
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("rdm: error: ")]
    assert status == 2 and len(lines) == 1 and "Traceback" not in printed.err, printed.err
    assert sorted(Path.cwd().rglob("*")) == before
    return lines[0]


def in_both_sizes(case):
    """Returns a case of a test; of the actions that share their options, one is enough for `make test`."""
    shared = len(case[0]) > 1 and case[0][1] not in ("img2img", "build", "style-swap")
    return pytest.param(*case, marks=pytest.mark.slow) if shared else case


@pytest.mark.parametrize(
    ("command", "flag", "value", "count"), list(map(in_both_sizes, cases(OF_ANOTHER_TYPE))), ids=name_of
)
def test_a_value_of_another_type_is_one_line(place, capsys, command, flag, value, count):
    assert flag in refused(place, capsys, command, flag, value, count)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "flag", "value", "count"),
    [
        case
        for case in cases(OUT_OF_RANGE)
        if case[0] in BASES and not (case[2].startswith("9") and (name_of(case[0]), case[1]) in TAKEN)
    ],
    ids=name_of,
)
def test_a_number_out_of_range_is_one_line(place, capsys, command, flag, value, count):
    line, name = refused(place, capsys, command, flag, value, count), flag.strip("-")
    assert any(word in line for word in (name, name.replace("-", " "), name.replace("-", "_"), value)), line


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_bytes_that_are_not_utf8_are_refused(place, capsys, command):
    assert cli.main([*command, "--out", "caf\udce9"]) == 2
    assert "'caf\\xe9', is not UTF-8" in capsys.readouterr().err
