"""`rdm sample --sweep`: a folder for each cell, one sheet, a record of each image, and replay."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def sample(rdm):
    return functools.partial(rdm, "sample")


def pixels(path):
    return np.asarray(Image.open(path))


def test_a_sweep_is_recorded_resumed_and_replayed(sample, rdm, capsys):
    given = ("a red boat", "--seed", 7, "--sweep", "guidance-scale=2,3", "--sweep", "seed=7,8")
    assert sample(*given) == 0
    printed = capsys.readouterr()
    assert "4 cells, 1 program" in printed.err
    run = json.loads(Path("outputs/run.json").read_text())
    assert run["complete"]
    assert run["sweep"] == [
        {"key": "guidance-scale", "values": ["2", "3"]},
        {"key": "seed", "values": ["7", "8"]},
    ]
    assert [entry["sweep"] for entry in run["images"]] == [
        {"guidance-scale": scale, "seed": seed} for seed in ("7", "8") for scale in ("2", "3")
    ]
    assert [entry["seed"] for entry in run["images"]] == [7, 7, 8, 8]
    files = [entry["file"] for entry in run["images"]]
    assert files[3] == "guidance-scale-3-seed-8/00000-8.png"
    assert sorted(path.name for path in Path("outputs").iterdir() if path.is_file()) == [
        "ATTRIBUTION.md",
        "grid.png",
        "run.json",
    ]
    sample("a red boat", "--seed", 8, "--guidance-scale", 3, "--out", "alone")
    assert np.array_equal(pixels(f"outputs/{files[3]}"), pixels("alone/00000-8.png"))
    assert rdm("replay", f"outputs/{files[3]}", "--out", "again.png") == 0
    assert "identical to the image in the file" in capsys.readouterr().err

    whole = pixels("outputs/grid.png")
    Path("outputs", files[2]).unlink()
    assert sample(*given, "--resume") == 0
    assert "3 of 4 images are there already" in capsys.readouterr().err
    again = json.loads(Path("outputs/run.json").read_text())
    key = functools.partial(sorted, key=lambda entry: entry["file"])
    assert key(again["images"]) == key(run["images"])
    assert np.array_equal(pixels("outputs/grid.png"), whole)
    assert sample("a red boat", "--seed", 7, "--sweep", "guidance-scale=2,4", "--sweep", "seed=7,8", "--resume") == 2
    assert "another value of" in capsys.readouterr().err


def test_databases_and_prompts_are_swept(sample, home):
    both = f"database={home / 'one'},{home / 'two'}"
    assert sample("--sweep", "prompt=a red boat,a blue tree", "--sweep", both, "--seed", 7, defaults=["--model"]) == 0
    run = json.loads(Path("outputs/run.json").read_text())
    assert run["prompts"] == ["a red boat", "a blue tree"]
    assert [one["name"] for one in run["databases"]] == ["one", "two"]
    assert [(one["prompt"], one["database"]) for one in run["images"]] == [
        (prompt, name) for name in ("one", "two") for prompt in ("a red boat", "a blue tree")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "seed=1", "--sweep", "eta=0", "--sweep", "steps=4"], "is the third one"),
        (["--sweep", "steps=4,-1"], "sweep steps=-1: steps -1"),
        (["--sweep", "database=one,two"], "leave --database out"),
        (["--sweep", "database=one,two", "--proposals", 2], "--proposals chooses rows of one database"),
    ],
)
def test_a_bad_sweep_writes_nothing(sample, arguments, message, capsys):
    assert sample("a red boat", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("outputs").exists()
