"""Configurations that leave out the defaults of their class, and values of wrong types."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from rdm_jax.convert import diffusers
from rdm_jax.convert.clip import config_from_hugging_face
from rdm_jax.convert.compvis_config import autoencoder_config, latent_diffusion_config
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.settings import Settings
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_autoencoder, build_clip, build_denoiser

WRONG = [None, "x", -1, 0, 1.5, [], {}, True, [1, "a"], float("nan")]


def test_an_empty_clip_configuration_has_the_defaults_of_its_class():
    from transformers import CLIPConfig

    empty = config_from_hugging_face({"model_type": "clip"})
    full = config_from_hugging_face(CLIPConfig().to_dict())
    assert full["text"].pop("eos_id") == 49407 and empty["text"].pop("eos_id") is None  # the highest id, which is that
    assert empty == full
    assert trees.count(abstract_params(build_clip(empty))) == 151_277_313  # ViT-B/32


def test_settings_of_a_clip_that_equal_the_defaults_may_be_left_out(golden):
    from transformers import CLIPTextConfig, CLIPVisionConfig

    config = json.loads((golden / "clip/hf_clip/config.json").read_text(encoding="utf-8"))
    expected = config_from_hugging_face(config)
    for key, cls in (("text_config", CLIPTextConfig), ("vision_config", CLIPVisionConfig)):
        defaults = cls().to_dict()
        config[key] = {name: value for name, value in config[key].items() if value != defaults.get(name)}
    assert "hidden_act" not in config["text_config"] and config_from_hugging_face(config) == expected


def test_older_names_of_a_towers_settings_come_first():
    config = {"model_type": "clip", "text_config": {"num_hidden_layers": 3}, "text_config_dict": {"hidden_size": 512}}
    text = config_from_hugging_face({**config, "text_config_dict": {"num_hidden_layers": 5}})["text"]
    assert text["layers"] == 5 and config_from_hugging_face(config)["text"]["layers"] == 3


@pytest.mark.slow
def test_a_pipeline_without_its_defaults_has_the_published_number_of_parameters():
    # Stable Diffusion 2: https://github.com/Stability-AI/stablediffusion
    unet = diffusers.unet_config({"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024})
    assert trees.count(abstract_params(build_denoiser(unet))) == 865_910_724
    blocks = {"block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4}
    vae = diffusers.vae_config({**blocks, "layers_per_block": 2})
    assert trees.count(abstract_params(build_autoencoder(vae))) == 83_653_863


def test_the_schedulers_have_their_own_defaults():
    ddim = {"num_timesteps": 1000, "schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "prediction": "eps"}
    assert diffusers.diffusion_config({}) == diffusers.diffusion_config({"_class_name": "PNDMScheduler"}) == ddim
    other = {"beta_start": 0.00085, "beta_end": 0.012}
    assert diffusers.diffusion_config({"_class_name": "HeunDiscreteScheduler"}) == {**ddim, **other}
    lcm = diffusers.diffusion_config({"_class_name": "LCMScheduler"})
    assert lcm == {**ddim, **other, "schedule": "scaled_linear"}
    again = diffusers.diffusion_config(diffusers.to_scheduler_config(ddim))
    assert again == ddim


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow matching"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid' is not supported"),
        ({"prediction_type": "flow"}, "prediction_type 'flow' is not supported"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps is 'many', and a whole number"),
    ],
)
def test_another_kind_of_scheduler_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        diffusers.diffusion_config(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers_per_block": [1, 2]}, "one value for all levels"),
        ({"attention_head_dim": [1, 2]}, "2 entries for 4 levels"),
        ({"down_block_types": ["DownBlock2D"]}, "a list of 4 texts"),
        ({"cross_attention_dim": "wide"}, "a whole number"),
        ({"act_fn": "gelu"}, "only 'silu' is supported"),
        ({"attention_head_dim": [8, 4, 8, 8]}, "or the same number of them at all levels"),
    ],
)
def test_another_kind_of_unet_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        diffusers.unet_config({"attention_head_dim": [5, 10, 20, 20], **settings})


def test_the_scaling_of_a_pipelines_latents():
    assert diffusers.latents_config({}) == {"scale": 0.18215}
    assert diffusers.latents_config({"scaling_factor": 0.5, "shift_factor": -0.25}) == {"scale": 0.5, "shift": [-0.25]}
    with pytest.raises(UserError, match="scaling_factor is 0, and a number above 0"):
        diffusers.latents_config({"scaling_factor": 0})


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "patch_size", "hidden_act", "intermediate_size"])
@pytest.mark.parametrize("value", WRONG[1:], ids=repr)
def test_a_clip_with_a_wrong_value_is_refused_in_one_line(golden, tmp_path, key, value):
    folder = shutil.copytree(golden / "clip/hf_clip", tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"][key] = value
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        convert(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["vision_config", "text_config", "model_type", "projection_dim"])
@pytest.mark.parametrize("value", [*WRONG[1:6], True, [1]], ids=repr)
def test_a_section_of_another_type_is_refused(key, value):
    with pytest.raises(UserError):
        config_from_hugging_face({"model_type": "clip", "vision_config": {}, "text_config": {}, key: value})


@pytest.mark.parametrize("value", [value for value in WRONG if value != {}], ids=repr)  # {} has no network either
@pytest.mark.parametrize(
    "path",
    ["unet_config", "unet_config.params", "first_stage_config.params.ddconfig", "first_stage_config.params.embed_dim"],
)
def test_a_yaml_with_a_wrong_value_is_refused(golden, path, value):
    params = yaml.safe_load((golden / "rdm_vq_small.yaml").read_text(encoding="utf-8"))["model"]["params"]
    *sections, last = path.split(".")
    section = params
    for name in sections:
        section = section[name]
    section[last] = value
    with pytest.raises(UserError) as caught:
        autoencoder_config(params)
        latent_diffusion_config(params, 4, retrieval_only=True)
    assert "\n" not in str(caught.value)


def test_numbers_of_a_network_that_do_not_fit_are_one_line(golden, tmp_path):
    content = yaml.safe_load((golden / "rdm_vq_small.yaml").read_text(encoding="utf-8"))
    for key, value in {
        "model_channels": 33,
        "num_head_channels": "x",
        "num_res_blocks": [1],
        "in_channels": -1,
    }.items():
        changed = {**content["model"]["params"]["unet_config"]["params"], key: value}
        section = {**content["model"]["params"], "unet_config": {"params": changed}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": {"params": section}}), encoding="utf-8")
        with pytest.raises(UserError) as caught:
            convert(golden / "rdm_vq_small.ckpt", config=tmp_path / "c.yaml")
        assert "\n" not in str(caught.value)


def test_a_setting_without_a_value_has_its_default():
    settings = Settings("file", {"a": None, "b": 2.0}, {"a": 3})
    assert settings.whole("a") == 3 and settings.whole("b") == 2 and not settings.has("a")
    with pytest.raises(UserError, match="file lacks c"):
        settings.whole("c")
