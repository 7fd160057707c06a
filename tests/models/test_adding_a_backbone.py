"""A backbone is added as docs/heads.md says: a file, a line in the table, a config."""

from __future__ import annotations

import importlib.util
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
from rdm_jax.training.tasks import make_abstract_task
from tests.helpers import tiny

DOCS = Path(__file__).parents[2] / "docs" / "heads.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes the documented files into a folder and registers the backbone."""
    section = DOCS.read_text().partition("## How to add a backbone")[2].partition("\n## ")[0]
    blocks = [block.split("```")[0].partition("\n") for block in section.split("```python\n# ")[1:]]
    assert [name for name, _, _ in blocks] == ["rdm_jax/models/convnet.py", "configs/convnet.py"]
    for name, _, code in blocks:
        (tmp_path / name.replace("/", "_")).write_text(code)
    spec = importlib.util.spec_from_file_location("convnet", tmp_path / "rdm_jax_models_convnet.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "convnet", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(models, "BACKBONES", {**models.BACKBONES, "convnet": module.ConvNet})
    return tmp_path


def test_the_documented_backbone_trains_and_generates(folder):
    network = models.build_denoiser({"kind": "convnet", "in_channels": 2, "out_channels": 2, "context_dim": tiny.WIDTH})
    assert isinstance(network, Backbone)
    task, _ = make_abstract_task(load_config(str(folder / "configs_convnet.py"), ["base=style-scenes"]))
    assert task.settings["context_dim"] == 128 and task.settings["channels"] == 64
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert set(params["denoiser"]) == {"convnet_in", "given", "convnet_out"}
    settings = {"kind": "convnet", "in_channels": 2, "out_channels": 2, "context_dim": tiny.WIDTH}
    generator = Generator.load(tiny.bundle(denoiser=settings))
    database = Database.open(tiny.database(folder, "squares", tiny.bundle()))
    options = {"database": database, "condition": "text+neighbors", "steps": 2, "guidance_scale": 10.0}
    plain, other = (
        generator.sample(["a red boat"], conditions=conditions, **options).images.astype(int)
        for conditions in ([], ["weights(of_query=0)"])
    )
    assert plain.shape == (1, 16, 16, 3) and np.abs(plain - other).max() > 1
    with pytest.raises(UserError, match="its denoiser, a convnet, does not support weights of tokens by region"):
        generator.plan(["a red boat"], database=database, conditions=["region(mask='left.png', prompt='a tree')"])
