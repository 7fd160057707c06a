"""A head is added as docs/heads.md says: a folder, one registration line, a config; the toy head here is one."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from rdm_jax import heads
from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from tests.helpers import tiny

DOCS = Path(__file__).parents[2] / "docs" / "heads.md"


def documented_files() -> dict[str, str]:
    """Returns {name: content} of the files that docs/heads.md gives for a new head."""
    text = DOCS.read_text()
    section = text[text.index("## How to add a head") :]
    blocks = section.split("```python\n# toy_head/")[1:]
    return {block.split("\n", 1)[0]: block.split("\n", 1)[1].split("```")[0] for block in blocks}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Registers the toy head of the documentation, and yields a folder with a model and a database of it."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy_head").mkdir()
    files = documented_files()
    assert set(files) == {"__init__.py", "options.py", "head.py"}
    for name, content in files.items():
        (folder / "toy_head" / name).write_text(textwrap.dedent(content))
    sys.path.insert(0, str(folder))
    heads.HEADS["toy"] = "toy_head"
    whole = tiny.bundle()
    kept = ("clip", "autoencoder")
    config = {key: value for key, value in whole.config.items() if key not in ("denoiser", "diffusion")}
    sampling = {"height": 16, "width": 16, "condition": "text+neighbors", "warmth": 0.5}
    model = Bundle(
        {**config, "name": "toy", "head": "toy", "sampling": sampling},
        {part: whole.params[part] for part in kept},
        whole.tokenizer,
    )
    model.save(folder / "model", "float32")
    tiny.database(folder, "squares", Bundle.open(folder / "model"))  # it knows its encoder by the file's hash
    yield folder
    del heads.HEADS["toy"]
    sys.path.remove(str(folder))


def test_it_generates(toy):
    generator, database = Generator.load(toy / "model"), Database.open(toy / "squares")
    result = generator.sample(["a red boat", "a blue tree"], database=database, num_images=2, seed=3, batch_size=4)
    assert result.images.shape == (4, 16, 16, 3) and result.neighbors is not None
    again = generator.sample(["a red boat"], database=database, num_images=2, seed=3, batch_size=2)
    assert np.abs(again.images.astype(int) - result.images[:2].astype(int)).max() <= 2  # a key for each image
    other = generator.sample(["a red boat"], database=database, num_images=2, seed=4, batch_size=2)
    assert np.abs(other.images.astype(int) - again.images.astype(int)).max() > 2


def test_traced_values_compile_nothing(toy):
    generator, database = Generator.load(toy / "model"), Database.open(toy / "squares")
    generator.sample(["a red boat"], database=database, warmth=1.0)
    before = generator.compilations
    generator.sample(["a blue tree"], database=database, warmth=2.0, seed=9)
    assert generator.compilations == before


def test_its_options_are_checked_and_those_of_others_refused_by_name(toy):
    generator = Generator.load(toy / "model")
    with pytest.raises(
        UserError, match="option steps belongs to diffusion and masked models, and this model's head is toy, which has"
    ):
        generator.plan(["a red boat"], database=Database.open(toy / "squares"), steps=5)
    with pytest.raises(UserError, match="warmth -1"):
        generator.plan(["a red boat"], database=Database.open(toy / "squares"), warmth=-1)


def test_conditions_that_it_does_not_support_are_refused(toy):
    generator = Generator.load(toy / "model")
    with pytest.raises(UserError, match="condition switch needs conditions that change from step to step"):
        generator.plan(["a red boat"], database=Database.open(toy / "squares"), conditions=["switch(prompt='a tree')"])


def test_the_command_line_has_its_options_records_and_replays(toy, capsys):
    assert main(["sample", "--help"]) == 0
    text = capsys.readouterr().out
    assert "options of toy models" in text and "--warmth" in text
    out = toy / "out"
    arguments = ["--model", str(toy / "model"), "--database", str(toy / "squares"), "--seed", "3", "--out", str(out)]
    assert main(["sample", "a red boat", "--warmth", "2", "--previews", *arguments]) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["model"]["head"] == "toy" and record["options"] == {"warmth": 2.0, "rounds": 4}
    assert list((out / "previews").glob("*.png"))
    capsys.readouterr()
    places = ["--model", str(toy / "model"), "--database", str(toy / "squares")]
    assert main(["replay", str(out / "00000-3.png"), *places]) == 0
    assert "identical to the image in the file" in capsys.readouterr().err
    assert main(["sample", "a red boat", "--steps", "4", *arguments]) == 2
    assert "option steps belongs to diffusion and masked models" in capsys.readouterr().err
