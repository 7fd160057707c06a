"""`rdm evaluate prompts` with a tiny random model, through the command line's front door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdm_jax.cli.main import main
from rdm_jax.generator import Generator


@pytest.fixture
def evaluate(home, load, own_environment, monkeypatch, tmp_path):
    """Runs the measure in an empty folder; returns the exit status."""
    monkeypatch.setattr(Generator, "load", staticmethod(load))
    monkeypatch.chdir(tmp_path)
    Path("p.tsv").write_text("Prompt\tCategory\tChallenge\tNote\na cat\tAnimals\tBasic\t\na boat\tVehicles\tBasic\t\n")

    def run(*arguments):
        fixed = ["--database", str(home / "one"), "--features", str(home / "model"), "--out", "out", "--quiet"]
        return main(["evaluate", "prompts", str(home / "model"), *fixed, "--steps", "2", *arguments])

    return run


@pytest.mark.slow
def test_prompts_of_a_table_are_scored_by_category(evaluate, capsys):
    arguments = ("--from-file", "p.tsv", "--num-images", "2", "--condition", "text+neighbors")
    assert evaluate(*arguments) == 0, capsys.readouterr().err
    found = json.loads(Path("out/results.json").read_text(), parse_constant=pytest.fail)
    groups = [(row["group"], row["kind"], row["images"]) for row in found["metrics"]]
    assert [group for group in groups if not group[1]] == [
        ("category Animals", "", 2), ("category Vehicles", "", 2), ("challenge Basic", "", 4), ("all", "", 4)
    ]  # fmt: skip
    by_group = {row["group"]: row["value"] for row in found["metrics"] if not row["kind"]}
    assert by_group["all"] == pytest.approx((by_group["category Animals"] + by_group["category Vehicles"]) / 2)
    assert found["generation"]["options"]["steps"] == 2 and len(list(Path("out/samples").glob("*.png"))) == 4
    assert Path("out/prompts.tsv").read_text().startswith("Prompt\tCategory\tChallenge\na cat\tAnimals\tBasic\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the prompts by --from-file FILE.tsv, or real images by --images DIR"),
        (["--images", "general"], "--images needs --category KEY"),
        (["--from-file", "nothing.tsv"], "nothing.tsv"),
        (["--images", "general", "--category", "styl"], "unknown attribute 'styl'; did you mean 'style'"),
    ],
)
def test_what_is_missing_is_named(evaluate, arguments, message, capsys):
    assert evaluate(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
