"""Weights and configurations of a diffusers pipeline: the folders unet, vae and clip, as in `fusing/rdm`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.compvis import LEAVES, TRANSFORMER
from rdm_jax.convert.mapping import Parameter, Source, Table, plan, rename
from rdm_jax.core.errors import UserError
from rdm_jax.models import AutoencoderKL, AutoencoderVQ, UNet, abstract_params

_UNET: Table = (
    (r"^time_(\d)/", r"time_embedding.linear_\1/"),
    (r"^norm_out/", "conv_norm_out/"),
    (r"^in_0_conv/", "conv_in/"),
    (r"^mid_0_res/", "mid_block.resnets.0/"),
    (r"^mid_1_attn/", "mid_block.attentions.0/"),
    (r"^mid_2_res/", "mid_block.resnets.1/"),
    (r"/time/", "/time_emb_proj/"),
    (r"/skip/", "/conv_shortcut/"),
    *TRANSFORMER,
    *LEAVES,
)

_VAE: Table = (
    (r"^(post_)?quant/", r"\1quant_conv/"),
    (r"/norm_out/", "/conv_norm_out/"),
    (r"/mid_attn_1/", "/mid_block.attentions.0/"),
    (r"/mid_res_1/", "/mid_block.resnets.0/"),
    (r"/mid_res_2/", "/mid_block.resnets.1/"),
    (r"/down_(\d+)_res_(\d+)/", r"/down_blocks.\1.resnets.\2/"),
    (r"/down_(\d+)_attn_(\d+)/", r"/down_blocks.\1.attentions.\2/"),
    (r"/down_(\d+)_down/", r"/down_blocks.\1.downsamplers.0/"),
    (r"/up_(\d+)_res_(\d+)/", r"/up_blocks.\1.resnets.\2/"),
    (r"/up_(\d+)_attn_(\d+)/", r"/up_blocks.\1.attentions.\2/"),
    (r"/up_(\d+)_up/", r"/up_blocks.\1.upsamplers.0/"),
    (r"/skip/", "/conv_shortcut/"),
    (r"(attentions\.\d+)/norm/", r"\1/group_norm/"),
    *TRANSFORMER,
    *LEAVES,
)

# Names in the autoencoder's attention before diffusers 0.18.
_VAE_BEFORE: Table = (
    (r"\.to_q\.", ".query."),
    (r"\.to_k\.", ".key."),
    (r"\.to_v\.", ".value."),
    (r"\.to_out\.0\.", ".proj_attn."),
)

_POINTWISE = re.compile(r".*(conv_shortcut|quant_conv|attentions\.\d+\.proj_(in|out))\.weight")

_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}

# Settings of a U-Net with the only supported values.
_UNET_FIXED = {
    "act_fn": "silu",
    "center_input_sample": False,
    "class_embed_type": None,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "use_linear_projection": False,
    "upcast_attention": False,
}


def unet_source(unet: UNet) -> Callable[[str], Source]:
    """Returns the function from a parameter's path to its name in diffusers."""

    def source_of(path: str) -> Source:
        """Returns the name of one parameter's tensor."""
        name = rename(_by_level(path, unet.num_res_blocks), _UNET)
        return Source((name,), pointwise=bool(_POINTWISE.fullmatch(name)))

    return source_of


def vae_source(autoencoder: AutoencoderKL | AutoencoderVQ, before: bool = False) -> Callable[[str], Source]:
    """Returns the function from a parameter's path to its name in diffusers, or `before` 0.18."""
    last = len(autoencoder.ch_mult) - 1

    def source_of(path: str) -> Source:
        """Returns the name of one parameter's tensor."""
        # Levels of the decoder are numbered from the smallest size on.
        path = re.sub(r"/up_(\d+)_", lambda match: f"/up_{last - int(match[1])}_", path)
        name = rename(path, (*_VAE, *_VAE_BEFORE) if before else _VAE)
        return Source((name,), pointwise=bool(_POINTWISE.fullmatch(name)))

    return source_of


def unet_plan(state: Mapping[str, np.ndarray], unet: UNet, allowed: frozenset[str]) -> dict[str, Parameter]:
    """Returns how the U-Net's parameters are assembled; raises UserError with all names and shapes that do not fit."""
    return plan(state, abstract_params(unet), unet_source(unet), what="U-Net", allowed=allowed)


def vae_plan(
    state: Mapping[str, np.ndarray], autoencoder: AutoencoderKL | AutoencoderVQ, allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the autoencoder's parameters are assembled; raises UserError if names or shapes do not fit."""
    before = any(".proj_attn." in name for name in state)
    source_of = vae_source(autoencoder, before)
    return plan(state, abstract_params(autoencoder), source_of, what="autoencoder", allowed=allowed)


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_denoiser` of a UNet2DConditionModel's.

    Raises:
      UserError: it has a setting that this network does not support, or heads of several sizes.
    """
    for key, value in _UNET_FIXED.items():
        if config.get(key, value) != value:
            raise UserError(f"the U-Net's {key} is {config[key]!r}, and only {value!r} is supported")
    channels = config["block_out_channels"]
    levels = len(channels)
    # diffusers' attention_head_dim is the number of heads, a mistake that checkpoints depend on.
    heads = config.get("num_attention_heads") or config["attention_head_dim"]
    heads = [heads] * levels if isinstance(heads, int) else heads
    attention = ["CrossAttn" in block for block in config["down_block_types"]]
    sizes = {width // count for width, count in zip(channels, heads, strict=True)}
    if len(sizes) > 1:
        raise UserError(f"the U-Net's heads have {sorted(sizes)} channels, and only heads of one size are supported")
    if any(width % channels[0] for width in channels):
        raise UserError(f"the U-Net's channels {channels} are not multiples of {channels[0]}; not supported")
    return {
        "kind": "unet",
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": config["layers_per_block"],
        "attention_resolutions": [2**level for level in range(levels) if attention[level]],
        "num_head_channels": sizes.pop(),
        "context_dim": config["cross_attention_dim"],
        "transformer_depth": config.get("transformer_layers_per_block", 1),
        "num_groups": config.get("norm_num_groups", 32),
    }


def vae_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_autoencoder` of an AutoencoderKL's.

    Raises:
      UserError: channels are not multiples of the first level's, or the quantizing convolutions are missing.
    """
    channels = config["block_out_channels"]
    if any(width % channels[0] for width in channels):
        raise UserError(f"the autoencoder's channels {channels} are not multiples of {channels[0]}; not supported")
    if not (config.get("use_quant_conv", True) and config.get("use_post_quant_conv", True)):
        raise UserError("the autoencoder has no quant_conv or post_quant_conv, and both are needed")
    resolution = 2 ** (len(channels) + 4)
    attention = [resolution >> i for i, block in enumerate(config["down_block_types"]) if "Attn" in block]
    return {
        "kind": "kl",
        "ch": channels[0],
        "ch_mult": [width // channels[0] for width in channels],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": attention,
        "resolution": resolution,
        "z_channels": config["latent_channels"],
        "embed_dim": config["latent_channels"],
        "out_channels": config.get("out_channels", 3),
        "in_channels": config.get("in_channels", 3),
        "mid_attention": config.get("mid_block_add_attention", True),
        "num_groups": config.get("norm_num_groups", 32),
    }


def diffusion_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the noise schedule of a scheduler's configuration.

    Raises:
      UserError: it is a schedule or a prediction that is not supported.
    """
    schedule, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    if schedule != "scaled_linear":
        raise UserError(f"the scheduler's beta_schedule is {schedule!r}, and only 'scaled_linear' is supported")
    if prediction not in _PREDICTIONS:
        raise UserError(f"prediction_type {prediction!r} is not supported; allowed are {', '.join(_PREDICTIONS)}")
    return {
        "num_timesteps": config.get("num_train_timesteps", 1000),
        "schedule": "scaled_linear",
        "beta_start": config["beta_start"],
        "beta_end": config["beta_end"],
        "prediction": _PREDICTIONS[prediction],
    }


def to_unet_config(config: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Returns the config.json of the UNet2DConditionModel that a U-Net's configuration describes, at `side` latents."""
    channels = [config["model_channels"] * factor for factor in config["channel_mult"]]
    attention = [2**level in config["attention_resolutions"] for level in range(len(channels))]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": side,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": config["num_res_blocks"],
        "cross_attention_dim": config["context_dim"],
        "attention_head_dim": [width // config["num_head_channels"] for width in channels],
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)],
        "transformer_layers_per_block": config.get("transformer_depth", 1),
        "norm_num_groups": config.get("num_groups", 32),
    }


def to_vae_config(config: Mapping[str, Any], scale: float, side: int) -> dict[str, Any]:
    """Returns the config.json of the AutoencoderKL that an autoencoder's configuration describes, at `side` pixels.

    Raises:
      UserError: it is a VQ autoencoder, or its latents have another size than its codes.
    """
    if config["kind"] != "kl" or config["z_channels"] != config["embed_dim"]:
        raise UserError("diffusers' pipeline has a KL autoencoder with z_channels = embed_dim; this model has another")
    channels = [config["ch"] * factor for factor in config["ch_mult"]]
    attention = [config["resolution"] >> level in config["attn_resolutions"] for level in range(len(channels))]
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": side,
        "in_channels": config.get("in_channels", 3),
        "out_channels": config.get("out_channels", 3),
        "latent_channels": config["z_channels"],
        "block_out_channels": channels,
        "layers_per_block": config["num_res_blocks"],
        "down_block_types": ["AttnDownEncoderBlock2D" if has else "DownEncoderBlock2D" for has in attention],
        "up_block_types": ["AttnUpDecoderBlock2D" if has else "UpDecoderBlock2D" for has in reversed(attention)],
        "mid_block_add_attention": config.get("mid_attention", True),
        "norm_num_groups": config.get("num_groups", 32),
        "scaling_factor": scale,
    }


def to_scheduler_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scheduler_config.json of the DDIMScheduler with a model's noise schedule.

    Raises:
      UserError: diffusers has no such schedule.
    """
    if config.get("schedule", "scaled_linear") != "scaled_linear":
        raise UserError(f"diffusers has no {config['schedule']} schedule of these times; only scaled_linear is written")
    return {
        "_class_name": "DDIMScheduler",
        "beta_start": config["beta_start"],
        "beta_end": config["beta_end"],
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": config["num_timesteps"],
        "prediction_type": next(name for name, ours in _PREDICTIONS.items() if ours == config["prediction"]),
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }


def _by_level(path: str, blocks: int) -> str:
    """Returns a path with its block numbered within its level as in diffusers; paths here number all blocks."""

    def place(match: re.Match[str]) -> str:
        """Returns the new name of one block."""
        side, number, kind = match[1], int(match[2]), match[3]
        level, index = divmod(number - (side == "in"), blocks + 1)
        group = {"res": f"resnets.{index}", "attn": f"attentions.{index}"}
        group |= {"down": "downsamplers.0", "up": "upsamplers.0"}
        return f"{'down' if side == 'in' else 'up'}_blocks.{level}.{group[kind]}/"

    return re.sub(r"^(in|out)_(\d+)_(res|attn|down|up)/", place, path)
