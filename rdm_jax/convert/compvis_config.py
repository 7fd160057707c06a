"""Converts the yaml of a CompVis model to the configuration of a bundle, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rdm_jax.convert.settings import Settings
from rdm_jax.core import text
from rdm_jax.core.errors import UserError

# Keys of the U-Net without effect on its output, and keys with one supported value.
_UNET_IGNORED = (
    *("image_size", "use_checkpoint", "use_fp16", "legacy", "conv_resample", "dims"),
    "use_linear_in_transformer",  # as a convolution of one pixel, which is the other form
)
_UNET_HEADS = ("num_head_channels", "num_heads")  # the first one given; -1 is none
_UNET_FLAGS = {"use_scale_shift_norm": "scale_shift", "resblock_updown": "residual_resampling"}  # false by default
_UNET_FIXED = {"num_classes": None, "n_embed": None}
_SCHEDULES = {"linear": "scaled_linear"}
_STAGE_OTHER = ("double_z", "attn_type", "out_ch", "dropout")  # keys of a first stage that have another name, or none
_DEFAULTS = {
    "image_size": 64,
    "timesteps": 1000,
    "linear_start": 1e-4,
    "linear_end": 2e-2,
    "scale_factor": 1.0,
    "beta_schedule": "linear",
    "parameterization": "eps",
    "use_ema": True,
}


def read_yaml(path: Path, *places: str) -> dict[str, Any]:
    """Returns the section of a yaml at the first of some places where it has one, "model.params" by default.

    Raises:
      UserError: it cannot be read, or has none.
    """
    places = places or ("model.params",)
    damaged = f"{path} is no yaml with {' or '.join(places)}; give the one that came with the checkpoint"
    try:
        content = yaml.safe_load(text.read(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; give the model's yaml by --config") from error
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise UserError(damaged) from error
    for place in places:
        section = content
        for key in place.split("."):
            section = section.get(key) if isinstance(section, Mapping) else None
        if isinstance(section, Mapping):
            return dict(section)
    raise UserError(damaged)


def names_celeba(path: Path) -> bool:
    """Returns whether a yaml's data set is CelebA-HQ, which says how its model is sampled."""
    return "celeba" in text.read(path).lower()


def autoencoder_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_autoencoder` of a first stage's parameters, alone or in a whole model.

    Raises:
      UserError: a key that is needed is missing or has no valid value.
    """
    own = Settings("the yaml", params)
    own = own.section("first_stage_config").section("params") if own.has("first_stage_config") else own
    stage = own.section("ddconfig", {"double_z": True, "attn_type": "vanilla", "out_ch": 3})
    kl = stage.flag("double_z")
    config = {
        "kind": "kl" if kl else "vq",
        "embed_dim": own.whole("embed_dim"),
        "out_channels": stage.whole("out_ch"),
        "mid_attention": stage.text("attn_type") != "none",
        **{str(key): value for key, value in stage.given.items() if key not in _STAGE_OTHER},
    }
    return config if kl else {**config, "num_codes": own.whole("n_embed")}


def latent_diffusion_config(params: Mapping[str, Any], downsampling: int, retrieval_only: bool) -> dict[str, Any]:
    """Returns the configuration of a bundle without its CLIP and autoencoder.

    Args:
      params: the yaml's "model.params".
      downsampling: of the first stage.
      retrieval_only: the conventions of the models of April 2023 (https://arxiv.org/abs/2204.11824): raw tokens, the
        query instead of the first of four neighbors, guidance 2, 100 steps. Otherwise those of July 2022
        (https://arxiv.org/abs/2207.13038): unit tokens, the text's and ten neighbors', guidance 5, 50 steps.

    Raises:
      UserError: a setting is missing, or has a value that these networks do not support.
    """
    own = Settings("the yaml", params, _DEFAULTS)
    unet = _unet_config(own.section("unet_config").section("params", {"channel_mult": (1, 2, 4, 8)}))
    schedule, prediction = own.text("beta_schedule"), own.text("parameterization")
    if schedule not in _SCHEDULES:
        raise UserError(f"beta_schedule {schedule!r} is not supported; allowed is {', '.join(_SCHEDULES)}")
    if prediction not in ("eps", "x0", "v"):
        raise UserError(f"parameterization {prediction!r} is not supported; allowed are eps, x0, v")
    side = own.whole("image_size") * downsampling
    return {
        "head": "diffusion",
        "denoiser": unet,
        "diffusion": {
            "num_timesteps": own.whole("timesteps"),
            "schedule": _SCHEDULES[schedule],
            "beta_start": own.number("linear_start"),
            "beta_end": own.number("linear_end"),
            "prediction": prediction,
        },
        "latents": {"scale": own.number("scale_factor")},
        **conventions(side, retrieval_only),
    }


def conventions(side: int, retrieval_only: bool) -> dict[str, Any]:
    """Returns the conditioning and the sampling defaults of a released model at `side` pixels.

    Args:
      side: of its training images.
      retrieval_only: whether it is one of April 2023 and not of July 2022, see `latent_diffusion_config`.
    """
    return {
        "conditioning": {"neighbors": 3 if retrieval_only else 10, "unit_tokens": not retrieval_only, "null": "zeros"},
        "sampling": {
            "condition": "text+neighbors",
            "sampler": "ddim",
            "steps": 100 if retrieval_only else 50,
            "eta": 0.0,
            "guidance_scale": 2.0 if retrieval_only else 5.0,
            "height": side,
            "width": side,
        },
    }


def uses_average(params: Mapping[str, Any]) -> bool:
    """Returns whether the program samples with the moving average of the weights, by a yaml's "model.params"."""
    return Settings("the yaml", params, _DEFAULTS).flag("use_ema")


def _unet_config(own: Settings) -> dict[str, Any]:
    for key, value in _UNET_FIXED.items():
        if own.given.get(key, value) != value:
            raise UserError(f"the U-Net's {key} is set, and only {key}={value} is supported")
    heads = [(key, own.whole(key)) for key in _UNET_HEADS if own.given.get(key, -1) != -1]
    flags = {name: True for key, name in _UNET_FLAGS.items() if own.has(key) and own.flag(key)}
    other = ("use_spatial_transformer", *_UNET_FLAGS, *_UNET_FIXED, *_UNET_IGNORED, *_UNET_HEADS)
    params = {str(key): value for key, value in own.given.items() if key not in other and value is not None}
    attention = {}
    if not (own.has("use_spatial_transformer") and own.flag("use_spatial_transformer")):
        attention = {"attention": "block", "context_dim": 0}
        params.pop("transformer_depth", None)
    return {
        "kind": "unet",
        **params,
        "channel_mult": own.wholes("channel_mult"),
        **dict(heads[:1]),
        **flags,
        **attention,
    }


def with_condition_channels(denoiser: Mapping[str, Any], latent_channels: int) -> dict[str, Any]:
    """Returns the settings of a U-Net whose further input channels are a condition beside the noisy latent.

    Args:
      denoiser: its settings, "in_channels" being those of its first convolution.
      latent_channels: of the first stage.
    """
    beside = denoiser["in_channels"] - latent_channels
    if beside <= 0:
        return dict(denoiser)
    return {**denoiser, "in_channels": latent_channels, "condition_channels": beside}


def to_yaml(config: Mapping[str, Any]) -> str:
    """Returns the yaml with which CompVis's programs build the networks of a bundle's configuration.

    Raises:
      UserError: the configuration has a setting that those programs do not have.
    """
    stage = _yaml_of_autoencoder(config["autoencoder"])
    if "denoiser" not in config:
        return yaml.safe_dump({"model": stage}, sort_keys=False)
    names = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    diffusion, latents = config["diffusion"], config["latents"]
    schedule = diffusion.get("schedule", "scaled_linear")
    if schedule not in names or any(latents.get("shift", [])):
        raise UserError(
            f"CompVis's programs have no {schedule} schedule with shifted latents; only models with the scaled_linear "
            "schedule and a scale alone can be written for them"
        )
    if diffusion["prediction"] not in ("eps", "x0", "v"):
        raise UserError(
            f"CompVis's programs predict no {diffusion['prediction']}; this model cannot be written for them"
        )
    own = ("kind", "num_groups", "dtype", "condition_channels", "attention", *_UNET_FLAGS.values())
    unet = {key: value for key, value in config["denoiser"].items() if key not in own}
    unet |= {key: True for key, name in _UNET_FLAGS.items() if config["denoiser"].get(name)}
    transformers = config["denoiser"].get("attention", "transformer") == "transformer"
    beside_time = any(config["denoiser"].get(key) for key in ("vector_dim", "guidance_dim", "pool_context"))
    if beside_time or (unet["context_dim"] and not transformers):
        raise UserError(
            "CompVis's programs have no U-Net with vectors or guidance scales beside the time, or with a context in "
            "its attention blocks; this model cannot be written for them"
        )
    unet["context_dim"] = unet["context_dim"] or None
    unet["in_channels"] += config["denoiser"].get("condition_channels", 0)
    if config["denoiser"].get("num_groups", 32) != 32:
        raise UserError("CompVis's programs have 32 groups in every group norm; this model cannot be written for them")
    params = {
        "linear_start": diffusion["beta_start"],
        "linear_end": diffusion["beta_end"],
        "timesteps": diffusion["num_timesteps"],
        "beta_schedule": names[schedule],
        "parameterization": diffusion["prediction"],
        "conditioning_key": "crossattn",
        "image_size": config["sampling"]["height"] // 2 ** (len(config["autoencoder"]["ch_mult"]) - 1),
        "channels": config["denoiser"]["in_channels"],
        "scale_factor": latents["scale"],
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": {"use_spatial_transformer": transformers, **unet},
        },
        "first_stage_config": stage,
        "cond_stage_config": {"target": "torch.nn.Identity"},
    }
    model = {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}
    return yaml.safe_dump({"model": model}, sort_keys=False)


def _yaml_of_autoencoder(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("num_groups", 32) != 32:
        raise UserError("CompVis's programs have 32 groups in every group norm; this model cannot be written for them")
    kl = config["kind"] == "kl"
    other = ("kind", "embed_dim", "out_channels", "mid_attention", "num_codes", "num_groups", "dtype", "legacy", "beta")
    stage = {
        "attn_type": "vanilla" if config.get("mid_attention", True) else "none",
        "double_z": kl,
        "out_ch": config.get("out_channels", 3),
        **{key: value for key, value in config.items() if key not in other},
    }
    stage.setdefault("in_channels", 3)
    codes = {} if kl else {"n_embed": config["num_codes"]}
    return {
        "target": "ldm.models.autoencoder." + ("AutoencoderKL" if kl else "VQModelInterface"),
        "params": {
            "embed_dim": config["embed_dim"],
            **codes,
            "ddconfig": stage,
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    }
