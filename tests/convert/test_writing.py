"""Bundles written back: the original files, tensor by tensor, and what another program cannot take."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import yaml

from rdm_jax import bundle
from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.convert.writing import write_back
from rdm_jax.core.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rdm_small", "rdm_vq_small", "kl_f16_small", "vq_f4_noattn_small"])
def test_a_converted_model_round_trips_bit_for_bit(golden, tmp_path, name):
    weights = "both" if name.startswith("rdm") else None
    convert(golden / f"{name}.ckpt", weights=weights).write(tmp_path / "bundle")
    write_back(tmp_path / "bundle", "compvis", tmp_path / "back")
    original, back = read_state_dict(golden / f"{name}.ckpt"), read_state_dict(tmp_path / "back/model.ckpt")
    networks = ("model.", "model_ema.diffusion", "first_stage_model.") if name.startswith("rdm") else ("",)
    assert set(back) == {key for key in original if key.startswith(networks) and not key.startswith("loss.")}
    for key, value in back.items():
        assert value.dtype == original[key].dtype
        np.testing.assert_array_equal(value, original[key])
    # The yaml in its folder builds the same networks: converting what was written gives the same bundle.
    convert(tmp_path / "back/model.ckpt").write(tmp_path / "again")
    one, other = Bundle.open(tmp_path / "bundle"), Bundle.open(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert {
        key: value for key, value in one.config.items() if key not in ("name", "sha256", "weights", "autoencoder")
    } == {key: value for key, value in other.config.items() if key not in ("name", "sha256", "weights", "autoencoder")}


@pytest.mark.slow
def test_a_pipeline_of_diffusers_round_trips_bit_for_bit(golden, tmp_path):
    convert(golden / "rdm_small.ckpt").write(tmp_path / "bundle")
    write_back(tmp_path / "bundle", "diffusers", tmp_path / "pipeline")
    convert(tmp_path / "pipeline").write(tmp_path / "again")
    one, other = Bundle.open(tmp_path / "bundle"), Bundle.open(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    for config in (one.config, other.config):
        config["denoiser"]["attention_resolutions"].sort()  # a set: at which sizes there is attention
    for key in ("denoiser", "diffusion", "latents", "conditioning", "sampling"):
        assert one.config[key] == {name: other.config[key][name] for name in one.config[key]}


@pytest.mark.slow
def test_a_model_in_int8_and_without_files_of_its_own_is_written_in_float16(golden, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "EMBEDDED", tmp_path)
    convert(golden / "rdm_small.ckpt").write(tmp_path / "converted")
    Bundle.open("converted").save(tmp_path / "whole")
    Bundle.open("whole").save(tmp_path / "small", "int8", parts_of="whole")
    assert not (tmp_path / "small" / "autoencoder.safetensors").exists()
    write_back("small", "diffusers", tmp_path / "pipeline")
    convert(tmp_path / "pipeline").write(tmp_path / "again")
    for part in ("denoiser", "autoencoder"):
        one, other = (Bundle.open(tmp_path / name, parts=(part,)).params[part] for name in ("small", "again"))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-10, atol=1e-7), one, other)


def test_the_ema_alone_also_gives_the_raw_weights(golden, tmp_path):
    convert(golden / "rdm_small.ckpt").write(tmp_path / "bundle")
    write_back(tmp_path / "bundle", "compvis", tmp_path / "back")
    back = read_state_dict(tmp_path / "back/model.ckpt")
    np.testing.assert_array_equal(
        back["model.diffusion_model.out.2.weight"], back["model_ema.diffusion_modelout2weight"]
    )


@pytest.mark.slow
def test_the_yaml_has_the_settings_of_the_original(golden, tmp_path):
    convert(golden / "rdm_small.ckpt").write(tmp_path / "bundle")
    write_back(tmp_path / "bundle", "compvis", tmp_path / "back")
    ours, theirs = (
        yaml.safe_load(path.read_text())["model"]["params"]
        for path in (tmp_path / "back/config.yaml", golden / "rdm_small.yaml")
    )
    for key in ("linear_start", "linear_end", "timesteps", "image_size", "channels", "scale_factor"):
        assert ours[key] == theirs[key]
    unet = theirs["unet_config"]["params"]
    kept = {key: value for key, value in unet.items() if key in ours["unet_config"]["params"]}
    assert kept == {key: ours["unet_config"]["params"][key] for key in kept} and "context_dim" in kept


def test_models_that_the_program_cannot_build_are_refused(tmp_path):
    with pytest.raises(UserError, match="32 groups in every group norm"):
        write_back("style-scenes", "compvis", tmp_path / "out")
    with pytest.raises(UserError, match="unknown target 'compviz'; did you mean 'compvis'"):
        write_back("style-scenes", "compviz", tmp_path / "out")
    with pytest.raises(UserError, match="latents with a scale alone"):
        write_back("style-scenes", "diffusers", tmp_path / "out")
    with pytest.raises(UserError, match="unknown model 'nowhere'"):
        write_back("nowhere", "compvis", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
