"""A backbone is added as docs/heads.md says: the file and the config that the page gives, and one line."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rdm_jax import models
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.models.backbone import Backbone
from rdm_jax.retrieval.database import Database
from rdm_jax.training.config import load_config
from rdm_jax.training.loop import make_run
from rdm_jax.training.tasks import make_abstract_task
from tests.helpers import tiny

DOCS = Path(__file__).parents[2] / "docs" / "heads.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the two files of the page; the backbone is registered."""
    text = DOCS.read_text()
    blocks = text[text.index("## How to add a backbone") : text.index("## How to add a head")].split("```python\n")[1:]
    for block, name in zip(blocks, ("my_mixer.py", "my_config.py"), strict=True):
        (tmp_path / name).write_text(block.split("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_mixer", raising=False)
    monkeypatch.setitem(models.BACKBONES, "my_mixer", __import__("my_mixer").MyMixer)
    return tmp_path


def test_it_has_a_dry_run_from_its_config(folder):
    overrides = ["base=style-scenes", "batch_size=2"]
    task, batch = make_abstract_task(load_config(str(folder / "my_config.py"), overrides))
    assert isinstance(task.module, Backbone) and task.settings["in_channels"] == 8
    create, update = make_run(task.config, task)
    state = jax.eval_shape(create)
    after, metrics = jax.eval_shape(update, state, task.frozen, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state) and metrics["loss"].shape == ()


def test_a_misspelt_field_of_it_is_refused(folder):
    with pytest.raises(UserError, match=r"model\.widht.*did you mean 'model\.width'"):
        load_config(str(folder / "my_config.py"), ["model.widht=3"])


def test_it_generates_and_refuses_what_it_does_not_support(folder):
    plain = tiny.bundle()
    settings = {"kind": "my_mixer", "in_channels": 2, "out_channels": 2, "context_dim": tiny.WIDTH, "width": 8}
    config = {**plain.config, "denoiser": settings}
    params = {**plain.params, "denoiser": tiny.random_params(config, "denoiser")}
    generator = Generator.load(dataclasses.replace(plain, config=config, params=params))
    database = Database.open(tiny.database(folder, "squares", generator.bundle))
    images = generator.sample(["a red boat"], database=database, sampler="dpmpp_2m", seed=1).images.astype(int)
    other = generator.sample(["a red boat"], database=database, sampler="dpmpp_2m", seed=2).images.astype(int)
    assert images.shape == (1, 16, 16, 3) and np.abs(images - other).max() > 10
    with pytest.raises(UserError, match="condition region needs weights of tokens by region"):
        generator.plan(["a red boat"], database=database, conditions=["region(mask='m.png', prompt='a tree')"])
