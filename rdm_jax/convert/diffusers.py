"""Weights and configurations of a diffusers pipeline: the folders unet, vae and scheduler."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.compvis import LEAVES, TRANSFORMER
from rdm_jax.convert.mapping import Parameter, Source, Table, plan, rename
from rdm_jax.convert.settings import Settings
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
    (r"^codebook$", "quantize.embedding.weight"),
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

# Settings with the only supported values, which are those that the class has if they are left out. Not among them are
# upcast_attention, as logits are in float32 here, and use_linear_projection, another form of the same product.
_UNET_FIXED = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}
_VAE_FIXED = {"act_fn": "silu", "latents_mean": None, "latents_std": None}
_SCHEDULER_FIXED = {"rescale_betas_zero_snr": False, "trained_betas": None}

# What a configuration may leave out: the defaults of diffusers' UNet2DConditionModel and AutoencoderKL.
_UNET_DEFAULTS = {
    "sample_size": 48,  # the class has none; that of the released pipeline
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 1280,
    "attention_head_dim": 8,
    "transformer_layers_per_block": 1,
    "norm_num_groups": 32,
}
_VAE_DEFAULTS = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "shift_factor": 0.0,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}

# Defaults of its schedulers, which differ: three groups of classes.
_SCHEDULER_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}
_STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012}
_OTHER_SCHEDULERS = {
    "DPMSolverSDEScheduler": _STABLE_DIFFUSION,
    "HeunDiscreteScheduler": _STABLE_DIFFUSION,
    "KDPM2AncestralDiscreteScheduler": _STABLE_DIFFUSION,
    "KDPM2DiscreteScheduler": _STABLE_DIFFUSION,
    "LCMScheduler": {**_STABLE_DIFFUSION, "beta_schedule": "scaled_linear"},
    "TCDScheduler": {**_STABLE_DIFFUSION, "beta_schedule": "scaled_linear"},
}
_SCHEDULES = ("scaled_linear", "linear")  # there and here


def unet_source(unet: UNet) -> Callable[[str], Source]:
    """Returns the function from a parameter's path to its name in diffusers."""

    def source_of(path: str) -> Source:
        """Returns the name of one parameter's tensor."""
        name = rename(_by_level(path, unet.num_res_blocks), _UNET)
        return Source((name,), pixel_axes=2 * bool(_POINTWISE.fullmatch(name)))

    return source_of


def vae_source(autoencoder: AutoencoderKL | AutoencoderVQ, before: bool = False) -> Callable[[str], Source]:
    """Returns the function from a parameter's path to its name in diffusers, or `before` 0.18."""
    last = len(autoencoder.ch_mult) - 1

    def source_of(path: str) -> Source:
        """Returns the name of one parameter's tensor."""
        # Levels of the decoder are numbered from the smallest size on.
        path = re.sub(r"/up_(\d+)_", lambda match: f"/up_{last - int(match[1])}_", path)
        name = rename(path, (*_VAE, *_VAE_BEFORE) if before else _VAE)
        return Source((name,), pixel_axes=2 * bool(_POINTWISE.fullmatch(name)))

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
      UserError: it has a setting that this network does not support, or without a valid value.
    """
    own = Settings("unet/config.json", config, _UNET_DEFAULTS)
    own.require(_UNET_FIXED)
    channels = own.wholes("block_out_channels")
    levels = len(channels)
    # diffusers' attention_head_dim is the number of heads, a mistake that checkpoints depend on.
    key = "num_attention_heads" if own.has("num_attention_heads") else "attention_head_dim"
    heads = own.wholes(key) if isinstance(own.value(key), list | tuple) else [own.whole(key)] * levels
    if len(heads) != levels:
        raise UserError(f"{own.what}: {key} has {len(heads)} entries for {levels} levels")
    attention = ["CrossAttn" in block for block in own.texts("down_block_types", levels)]
    if any(width % channels[0] for width in channels):
        raise UserError(f"the U-Net's channels {channels} are not multiples of {channels[0]}; not supported")
    return {
        "kind": "unet",
        "in_channels": own.whole("in_channels"),
        "out_channels": own.whole("out_channels"),
        "model_channels": channels[0],
        "channel_mult": [width // channels[0] for width in channels],
        "num_res_blocks": own.for_all("layers_per_block"),
        "attention_resolutions": [2**level for level in range(levels) if attention[level]],
        **_heads(channels, heads),
        "context_dim": own.for_all("cross_attention_dim"),
        "transformer_depth": own.for_all("transformer_layers_per_block"),
        "num_groups": own.whole("norm_num_groups"),
    }


def _heads(channels: list[int], counts: list[int]) -> dict[str, int]:
    """Returns the setting of heads of one size at all levels, or of one number of them."""
    sizes = {width // count for width, count in zip(channels, counts, strict=True)}
    if len(sizes) == 1:
        return {"num_head_channels": sizes.pop()}
    if len(set(counts)) == 1:
        return {"num_heads": counts[0]}
    raise UserError(
        f"the U-Net's levels have {counts} heads for {channels} channels; supported are heads of one size, or the same "
        "number of them at all levels"
    )


def latent_side(config: Mapping[str, Any]) -> int:
    """Returns the side of the latents that a UNet2DConditionModel was trained on; raises UserError if it is none."""
    return Settings("unet/config.json", config, _UNET_DEFAULTS).for_all("sample_size")


def vae_config(config: Mapping[str, Any], what: str = "vae/config.json") -> dict[str, Any]:
    """Returns the configuration for `build_autoencoder` of an AutoencoderKL's; `what` names its file in errors.

    Raises:
      UserError: channels are not multiples of the first level's, the quantizing convolutions are missing, or a setting
        has no valid value.
    """
    own = Settings(what, config, _VAE_DEFAULTS)
    own.require(_VAE_FIXED)
    channels = own.wholes("block_out_channels")
    if any(width % channels[0] for width in channels):
        raise UserError(f"the autoencoder's channels {channels} are not multiples of {channels[0]}; not supported")
    if not (own.flag("use_quant_conv") and own.flag("use_post_quant_conv")):
        raise UserError("the autoencoder has no quant_conv or post_quant_conv, and both are needed")
    resolution = 2 ** (len(channels) + 4)
    blocks = own.texts("down_block_types", len(channels))
    attention = [resolution >> level for level, block in enumerate(blocks) if "Attn" in block]
    return {
        "kind": "kl",
        "ch": channels[0],
        "ch_mult": [width // channels[0] for width in channels],
        "num_res_blocks": own.whole("layers_per_block"),
        "attn_resolutions": attention,
        "resolution": resolution,
        "z_channels": own.whole("latent_channels"),
        "embed_dim": own.whole("latent_channels"),
        "out_channels": own.whole("out_channels"),
        "in_channels": own.whole("in_channels"),
        "mid_attention": own.flag("mid_block_add_attention"),
        "num_groups": own.whole("norm_num_groups"),
    }


def latents_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scaling of the latents of an AutoencoderKL, (z - shift) scale; raises UserError if it is none."""
    own = Settings("vae/config.json", config, _VAE_DEFAULTS)
    shift = own.any_number("shift_factor")
    return {"scale": own.number("scaling_factor"), **({"shift": [shift]} if shift else {})}


def diffusion_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the noise schedule of a scheduler's configuration.

    Raises:
      UserError: it is a schedule or a prediction that is not supported, or a setting has no valid value.
    """
    name = config.get("_class_name", "DDIMScheduler")
    defaults = _SCHEDULER_DEFAULTS | _OTHER_SCHEDULERS.get(str(name), {})
    own = Settings("scheduler/scheduler_config.json", config, defaults)
    own.require(_SCHEDULER_FIXED)
    schedule, prediction = own.text("beta_schedule"), own.text("prediction_type")
    if "Flow" in str(name) or config.get("use_flow_sigmas"):
        raise UserError(f"the scheduler {name} is one of flow matching, which these networks do not have")
    if schedule not in _SCHEDULES:
        raise UserError(f"beta_schedule {schedule!r} is not supported; allowed are {', '.join(_SCHEDULES)}")
    if prediction not in _PREDICTIONS:
        raise UserError(f"prediction_type {prediction!r} is not supported; allowed are {', '.join(_PREDICTIONS)}")
    return {
        "num_timesteps": own.whole("num_train_timesteps"),
        "schedule": schedule,
        "beta_start": own.number("beta_start"),
        "beta_end": own.number("beta_end"),
        "prediction": _PREDICTIONS[prediction],
    }


def to_unet_config(config: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Returns the config.json of the UNet2DConditionModel that a U-Net's configuration describes, at `side` latents.

    Raises:
      UserError: the U-Net has what that class does not have.
    """
    usual = {"attention": "transformer", "scale_shift": False, "residual_resampling": False, "vector_dim": 0}
    usual |= {"guidance_dim": 0, "pool_context": False}
    other = [f"{key}={config[key]!r}" for key, value in usual.items() if config.get(key, value) != value]
    if other:
        raise UserError(f"diffusers' pipeline has no U-Net with {', '.join(other)}; use this model here")
    channels = [config["model_channels"] * factor for factor in config["channel_mult"]]
    attention = [2**level in config["attention_resolutions"] for level in range(len(channels))]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": side,
        "in_channels": config["in_channels"] + config.get("condition_channels", 0),
        "out_channels": config["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": config["num_res_blocks"],
        "cross_attention_dim": config["context_dim"],
        "attention_head_dim": [config.get("num_heads") or width // config["num_head_channels"] for width in channels],
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
    schedule = config.get("schedule", "scaled_linear")
    if schedule not in _SCHEDULES:
        raise UserError(
            f"diffusers has no {schedule} schedule of these times; only {', '.join(_SCHEDULES)} are written"
        )
    if config["prediction"] not in _PREDICTIONS.values():
        raise UserError(
            f"diffusers predicts no {config['prediction']}; only {', '.join(_PREDICTIONS.values())} are written"
        )
    return {
        "_class_name": "DDIMScheduler",
        "beta_start": config["beta_start"],
        "beta_end": config["beta_end"],
        "beta_schedule": schedule,
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
