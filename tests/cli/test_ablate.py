"""`rdm ablate` with a tiny random model: a grid runs, continues after a stop, and refuses other settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax.ablation.grid import Job
from rdm_jax.cli import ablate
from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from tests.helpers import classifier

GRID = """
def get_config():
    results = {{
        "command": "evaluate model", "": "{home}/model", "database": "{{part}}", "proposals": 8, "batch-size": 4,
        "steps": 2, "metrics": "prdc", "features": "classifier", "reference": "real", "quiet": True, "k": {k},
    }}
    return {{
        "title": "Tiny",
        "stages": {{
            "part": {{"command": "database subset", "": "{home}/one", "limit": 8}},
            "results": results,
        }},
        "axes": {{"neighbors": {{"1": {{"results.neighbors": 1}}, "2": {{"results.neighbors": 2}}}}}},
        "plots": [{{"x": "neighbors", "y": "precision"}}],
    }}
"""


@pytest.fixture
def run(home, load, own_environment, monkeypatch, tmp_path):
    """Runs the grid in an empty folder; returns the exit status."""
    monkeypatch.setattr(Generator, "load", staticmethod(load))
    monkeypatch.setattr(ablate, "_forget_programs", lambda: None)  # other tests need them
    monkeypatch.chdir(tmp_path)
    classifier.bundle().save(tmp_path / "classifier", "float32")
    (tmp_path / "real").mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "real" / f"{number}.png")

    def run(*arguments, k=2):
        Path("mine.py").write_text(GRID.format(home=home, k=k))
        return main(["ablate", "mine.py", "--workdir", "out", *arguments])

    return run


def stamps():
    return {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.json")}


@pytest.mark.slow
def test_a_grid_runs_continues_and_refuses_other_settings(run, capsys, monkeypatch):
    generate = Generator.generate

    def killed(self, *arguments):
        for number, result in enumerate(generate(self, *arguments)):
            if number == 1:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "generate", killed)
        assert run() == 130
    assert not json.loads(Path("out/results/neighbors=1.json").read_text())["done"]
    assert run() == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert printed.out == "out\n"
    assert "1 of 3 stages are done already" in printed.err and "4 of 8 images are there already" in printed.err
    found = [json.loads(Path(f"out/results/neighbors={k}/results.json").read_text()) for k in (1, 2)]
    assert [one["generation"]["request"]["neighbors"] for one in found] == [1, 2]
    assert found[0]["generation"]["databases"][0]["rows"] == 8
    report = Path("out/report.md").read_text()
    values = [next(row["value"] for row in one["metrics"] if row["title"].startswith("precision")) for one in found]
    assert "| neighbors | precision | recall | density | coverage |" in report
    shown = [line.split(" | ")[1] for line in report.split("\n") if line.startswith(("| 1", "| 2"))]
    assert [float(text.split()[0]) for text in shown] == pytest.approx(values, abs=1e-3)
    assert Path("out/files/plot-1.csv").is_file() and Path("out/report.html").is_file()

    before = stamps()
    assert run() == 0 and stamps() == before
    assert run(k=3) == 2
    assert "out/results/neighbors=1 was made with k 2, and the grid has 3" in capsys.readouterr().err
    assert stamps() == before


def test_a_wrong_option_is_found_before_anything_runs(run, capsys):
    assert run(k="'x'") == 2
    assert "stage results/neighbors=1: argument --k" in capsys.readouterr().err
    assert not Path("out/part").exists()


def test_a_training_that_was_stopped_is_not_done(monkeypatch, tmp_path):
    job = Job("run", "all", "train", {"config": "smoke", "steps": 7, "data.neighbors": "{workdir}/neighbors/all"})
    seen = {}

    def train_in(workdir, config, init_from):
        seen.update(workdir=workdir, steps=config.steps, neighbors=config.data.neighbors)
        return 5

    monkeypatch.setattr("rdm_jax.cli.train.train_in", train_in)
    with pytest.raises(UserError, match="run/all is trained to step 5 of 7; the same command continues"):
        ablate._run(job, tmp_path)
    assert seen == {"workdir": f"{tmp_path}/run/all", "steps": 7, "neighbors": f"{tmp_path}/neighbors/all"}
    words = ablate.arguments(job, tmp_path)
    assert words == [
        "train", "--config=smoke", "--config.steps=7", f"--config.data.neighbors={tmp_path}/neighbors/all",
        "--workdir", f"{tmp_path}/run/all",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a grid and --workdir DIR"),
        (["ablations/nothing", "--workdir", "x"], "unknown config 'ablations/nothing'"),
        (["smoke", "--workdir", "x"], "unknown key of a grid"),
    ],
)
def test_what_is_missing_or_unknown_is_named(arguments, message, capsys):
    assert main(["ablate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_record_is_refused(run, capsys):
    Path("out/part").mkdir(parents=True)
    Path("out/part/all.json").write_text("{}")
    assert run() == 2
    assert "out/part/all.json is damaged; remove it with out/part/all" in capsys.readouterr().err
