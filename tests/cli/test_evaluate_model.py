"""`rdm evaluate model` with a tiny random model, through the command line's front door."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli import run_folder
from rdm_jax.cli.main import main
from rdm_jax.core import files
from rdm_jax.evaluation.index_recall import index_recall
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from tests.helpers import classifier


@pytest.fixture
def evaluate(home, load, own_environment, monkeypatch, tmp_path):
    """Runs the measure in an empty folder; returns the exit status."""
    monkeypatch.setattr(Generator, "load", staticmethod(load))
    monkeypatch.chdir(tmp_path)
    classifier.bundle().save(tmp_path / "classifier", "float32")
    (tmp_path / "real").mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "real" / f"{number}.png")

    def run(*arguments, database="one"):
        fixed = ["--features", "classifier", "--reference", "real", "--out", "out", "--quiet", "--steps", "2"]
        return main(["evaluate", "model", str(home / "model"), "--database", str(home / database), *fixed, *arguments])

    return run


def pixels(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


PROPOSALS = ("--proposals", "16", "--metrics", "fid,copies", "--batch-size", "4")


@pytest.mark.slow
def test_everything_that_defines_the_numbers_is_recorded(evaluate, home, tmp_path, capsys):
    assert evaluate(*PROPOSALS) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    database = Database.open(home / "one")
    generation = found["generation"]
    assert generation["model"]["sha256"] == found["model"]["sha256"] and generation["weights"] == "unknown"
    assert generation["options"]["steps"] == 2 and generation["options"]["sampler"] == "ddim"
    assert generation["options"]["eta"] == 0.0 and generation["options"]["guidance_scale"] == 2.0
    assert generation["request"]["seed"] == 0 and generation["request"]["neighbors"] == 2
    (used,) = generation["databases"]
    assert used["sha256"] == database.digest and used["rows"] == 12
    assert (used["index"], used["recall"], used["k"]) == ("ExactIndex", 1.0, 2)
    assert found["images"]["images"] == 16 and found["training"]["name"] == database.name
    assert len(pixels(tmp_path / "out" / "samples")) == 16
    assert "guidance_scale 2.0" in (tmp_path / "out" / "results.md").read_text()


def test_a_killed_run_continues_with_the_same_images(evaluate, tmp_path, capsys, monkeypatch):
    assert evaluate(*PROPOSALS) == 0
    whole = pixels(tmp_path / "out" / "samples")
    first = json.loads((tmp_path / "out" / "results.json").read_text())
    (tmp_path / "out").rename(tmp_path / "whole")
    generate = Generator.generate

    def killed(self, *arguments):
        for number, result in enumerate(generate(self, *arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "generate", killed)
        assert evaluate(*PROPOSALS) != 0
    assert len(pixels(tmp_path / "out" / "samples")) == 8 and not (tmp_path / "out" / "results.json").exists()
    capsys.readouterr()
    assert evaluate(*PROPOSALS) == 0
    assert "8 of 16 images are there already" in capsys.readouterr().err
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["metrics"] == first["metrics"] and again["images"]["sha256"] == first["images"]["sha256"]
    assert pixels(tmp_path / "out" / "samples").keys() == whole.keys()
    assert evaluate(*PROPOSALS, "--seed", "1") == 2
    assert "the run in out/samples has another value of" in capsys.readouterr().err


def test_a_run_that_was_killed_before_its_first_record_starts_again(evaluate, tmp_path):
    samples = tmp_path / "out" / "samples"
    samples.mkdir(parents=True)
    (samples / run_folder.RUN).write_bytes(files.json_bytes(run_folder.UNFINISHED))
    (samples / "00000-7.png").write_bytes(b"of the killed run")
    assert evaluate(*PROPOSALS, "--metrics", "is", "--splits", "2") == 0
    assert len(pixels(samples)) == 16 and not (samples / "00000-7.png").exists()


@pytest.mark.slow
def test_prompts_are_measured_as_captions(evaluate, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red boat\na blue tree\n")
    arguments = ("--from-file", "prompts.txt", "--num-images", "3", "--condition", "text+neighbors")
    assert evaluate(*arguments, "--metrics", "lpips,clip-score") == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "of two images of one caption" in found["metrics"][0]["title"]
    assert found["metrics"][0]["parameters"]["pairs"] == 6
    assert found["generation"]["queries"] == {"kind": "prompts", "count": 2, "top_m": None, "weighted": False}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to generate: give prompts by --from-file FILE, or --proposals N"),
        (["--proposals", "4", "--metrics", "clip-score"], "metrics clip-score need prompts, and --proposals has none"),
        (["--proposals", "4", "--metrics", "fidd"], "unknown metric 'fidd'"),
        (["--proposals", "4", "--features", "nowhere"], "unknown model 'nowhere'"),
        (["--proposals", "4", "--reference", "./nowhere"], "no folder or file ./nowhere"),
        (["--proposals", "4", "--steps", "100000"], "100000 sampling steps do not fit"),
        (["--from-file", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_generated(evaluate, capsys, tmp_path, arguments, message):
    assert evaluate(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_recall_of_an_index_is_the_fraction_of_exact_neighbors(home, monkeypatch):
    database = Database.open(home / "one")
    queries = np.random.default_rng(0).normal(size=(5, database.width)).astype(np.float32)

    class Halved:
        """Finds every second of the exact neighbors, and a row that is none."""

        def search(self, queries, k):
            from rdm_jax.retrieval.exact_index import ExactIndex

            ids, scores = ExactIndex(database.rows).search(queries, k)
            ids[:, 1::2] = -1
            return ids, scores

    monkeypatch.setattr("rdm_jax.evaluation.index_recall.make_index", lambda database: Halved())
    assert index_recall(database, queries, 4) == {"index": "Halved", "k": 4, "recall": 0.5, "queries": 5}
