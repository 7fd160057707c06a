"""A model is made of a run's record, its parameters and its base; what is missing is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.parts import PARTS
from rdm_jax.training.export import export_run, run_or_model
from rdm_jax.training.model_record import ModelRecord
from tests.helpers import guided, tiny

SECTIONS = {name: tiny.CONFIG[name] for name in ("denoiser", "diffusion", "latents", "conditioning", "sampling")}


@pytest.fixture
def base(tmp_path: Path) -> Bundle:
    """A model with noised networks, as a base."""
    model = guided.bundle()
    training = {"clip": {"steps": 7}, "noised_clip": {"steps": 9}}
    Bundle({**model.config, "training": training}, model.params, model.tokenizer).save(tmp_path / "base", "float32")
    return Bundle.open(tmp_path / "base")


def record_of(base: Bundle) -> ModelRecord:
    config = {"name": "new", "head": "diffusion", **SECTIONS}
    return ModelRecord.of(config, base, str(base.path), ("clip", "autoencoder"))


def denoiser(seed: int = 5) -> dict:
    return tiny.random_params(tiny.CONFIG, "denoiser", seed)


def test_a_model_lists_and_holds_its_own_parts_and_those_of_its_base(base: Bundle, tmp_path: Path) -> None:
    record = ModelRecord(**json.loads(json.dumps(record_of(base).__dict__)))  # as it is written and read
    model = record.bundle({"denoiser": denoiser()}, record.open_base("run"))
    assert set(model.params) == {part for part in PARTS if part in model.config} == {"clip", "autoencoder", "denoiser"}
    assert model.config["training"] == {"clip": {"steps": 7}}
    for part in ("clip", "autoencoder"):
        pairs = trees.flatten(model.params[part]), trees.flatten(base.params[part])
        assert all(np.array_equal(pairs[0][name], pairs[1][name]) for name in pairs[1])
    model.save(tmp_path / "model")
    opened = Bundle.open(tmp_path / "model")
    assert opened.name == "new" and opened.config["head"] == "diffusion" and opened.tokenizer is not None


def test_a_learned_null_token_becomes_a_setting(base: Bundle) -> None:
    params = {"denoiser": denoiser(), "null": {"token": np.full(tiny.WIDTH, 0.25, np.float32)}}
    model = record_of(base).bundle(params, base)
    assert model.config["conditioning"]["null_token"] == [0.25] * tiny.WIDTH and "null" not in model.params


def test_a_base_that_is_gone_or_has_changed_is_named(base: Bundle) -> None:
    record, place = record_of(base), Path(str(base.path))
    other = tiny.bundle()
    clip = tiny.random_params(tiny.CONFIG, "clip", 99)
    shutil.rmtree(place)
    with pytest.raises(UserError, match=r"runs/a was trained on the parts of .*base.*cannot be opened.*bring it back"):
        record.open_base("runs/a")
    Bundle(other.config, {**other.params, "clip": clip}, other.tokenizer).save(place, "float32")
    with pytest.raises(UserError, match=r"runs/a was trained with another clip than .* holds now"):
        record.open_base("runs/a")


def test_a_model_may_stand_in_place_of_a_run(base: Bundle, tmp_path: Path) -> None:
    found = run_or_model(tmp_path / "base")
    assert found.digest == base.digest and run_or_model("style-scenes").name == "style-scenes"
    with pytest.raises(UserError, match=r"is no training run"):
        run_or_model(tmp_path)


def test_a_folder_that_cannot_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        export_run(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"is no training run: it has no config\.json"):
        export_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no model\.json; start `rdm train` there once more"):
        export_run(tmp_path)
    (tmp_path / "model.json").write_text('{"config"')
    with pytest.raises(UserError, match=r"model\.json is damaged"):
        export_run(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(UserError, match="has no checkpoints"):
        export_run(tmp_path)


@pytest.mark.parametrize("stored", [{"config": {}, "another": 1}, {}, [1]])
def test_a_record_of_another_version_is_one_line(stored: object) -> None:
    with pytest.raises(UserError, match="the model's record in runs/a is none that this version reads"):
        ModelRecord.read(stored, "runs/a")
