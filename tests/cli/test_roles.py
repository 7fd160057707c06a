"""`rdm sample` and `rdm replay` of a model with two roles of neighbors: content in records, and who is named for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli.png import read_record
from rdm_jax.generator import Generator
from tests.helpers import tiny


@pytest.fixture(scope="session")
def roles(tmp_path_factory):
    """A folder with a model of two roles, a style database and a content database."""
    folder = tmp_path_factory.mktemp("roles")
    tiny.bundle_with_roles().save(folder / "model", "float32")
    opened = Generator.load(folder / "model").bundle
    for seed, name in enumerate(["styles", "contents"]):
        tiny.database(folder, name, opened, seed=seed)
    return folder


@pytest.fixture
def sample(rdm, roles):
    def run(*arguments):
        places = ["--model", roles / "model", "--database", roles / "styles", "--content-database", roles / "contents"]
        return rdm("sample", *arguments, *places, "--seed", 7, defaults=())

    return run


@pytest.fixture
def replay(rdm, roles):
    def run(file):
        places = ["--model", roles / "model", "--database", roles / "styles", "--content-database", roles / "contents"]
        return rdm("replay", file, *places, defaults=())

    return run


def entries():
    return json.loads(Path("outputs/run.json").read_text())["images"]


@pytest.mark.slow
def test_the_content_of_each_image_is_recorded_and_named(sample):
    assert sample("square 3", "--content-neighbors", 2) == 0
    (entry,) = entries()
    assert entry["content"]["databases"] == ["contents", "contents"]
    text = Path("outputs/ATTRIBUTION.md").read_text()
    shown = text.partition("## contents")[2]
    assert all(f"square {row}" in shown for row in entry["content"]["ids"])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [
    ["square 3", "square 5", "--num-images", 2, "--content-neighbors", 2],
    ["square 3", "square 5", "--candidates", 2, "--batch-size", 3],
])  # fmt: skip
def test_an_image_with_content_is_replayed_bit_for_bit(sample, replay, capsys, arguments):
    assert sample(*arguments) == 0
    for entry in entries():
        capsys.readouterr()
        assert replay(f"outputs/{entry['file']}") == 0
        assert "identical to the image in the file" in capsys.readouterr().err


@pytest.mark.slow
def test_an_image_that_is_its_own_content_is_in_the_record(sample, replay, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save("query.png")
    assert sample("--image", "query.png") == 0
    Path("query.png").unlink()
    capsys.readouterr()
    assert replay("outputs/00000-7.png") == 0
    assert "identical to the image in the file" in capsys.readouterr().err
    assert "## contents" not in Path("outputs/ATTRIBUTION.md").read_text()


def test_another_content_database_is_named(sample, rdm, roles, capsys):
    assert sample("square 3") == 0
    places = ["--model", roles / "model", "--database", roles / "styles", "--content-database", roles / "styles"]
    assert rdm("replay", "outputs/00000-7.png", *places, defaults=()) == 2
    assert "the content is from database 'contents'" in capsys.readouterr().err.splitlines()[-1]


def test_a_word_that_no_content_is_near_is_named(sample, capsys, monkeypatch):
    plan = Generator.plan

    def unknown(self, *arguments, **options):
        found = plan(self, *arguments, **options)
        assert found.content is not None
        content = dataclasses.replace(found.content, known=np.zeros(1, bool), nearest=[["square", "disk"]])
        return dataclasses.replace(found, content=content)

    monkeypatch.setattr(Generator, "plan", unknown)
    assert sample("democracy") == 0
    message = "no content is near 'democracy'; the nearest words with content: square, disk"
    assert message in capsys.readouterr().err
    (entry,) = entries()
    assert entry["content"]["known"] is False and entry["content"]["nearest"] == ["square", "disk"]
    record, _ = read_record(Path("outputs", entry["file"]))
    assert record["content"]["known"] is False
