"""Weights and settings of Frido: its PyU-Net, and its first stage (MS-VQGAN), which is also released alone.

A checkpoint has the layout of CompVis's, see `convert.compvis`. Lists whose names begin with `ms_` are in the order
coarse, fine; those of the encoder in the order fine, coarse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.convert import compvis, compvis_config, input_encoders, latent_tasks, text_encoder
from rdm_jax.convert.compvis import AUTOENCODER, FIRST_STAGE_PREFIX, UNET, UNET_PREFIX
from rdm_jax.convert.converted import RAW, Conversion
from rdm_jax.convert.mapping import Parameter, Source, Subset, Table, built, plan, rename, shape_of
from rdm_jax.convert.settings import Settings
from rdm_jax.convert.tokenizer import tokenizer_of
from rdm_jax.core.errors import UserError, some
from rdm_jax.models import abstract_params, build_autoencoder, build_denoiser, build_text_encoder
from rdm_jax.models.multi_scale_vq import MultiScaleVQ
from rdm_jax.models.pyunet import PyUNet
from rdm_jax.parts import without_padding

KIND = "Frido checkpoint"
FIRST_STAGE_KIND = "CompVis first stage of two scales"

_STAGES = f"{UNET_PREFIX}stage_emb.weight"
_COARSE_HEAD = "encoder.conv_out_ms.1.weight"

PYUNET: Table = (
    (r"^stage$", "stage_emb/scale"),
    (r"^stage_(\d)_in/", r"pre_input_blocks.\1.0/"),
    (r"^gate/", "pre_input_cond_blocks.0.0/"),
    (r"^stage_(\d)_norm/", r"out.\1.0/"),
    (r"^stage_(\d)_out/", r"out.\1.2/"),
    (r"/group/", "/param_free_norm/"),
    (r"/shared/", "/mlp_shared.0/"),
    (r"/(gamma|beta)/", r"/mlp_\1/"),
    *UNET,
)

MULTI_SCALE: Table = (
    (r"^coarse_codebook$", "ms_quantize.0.embedding/scale"),
    (r"^fine_codebook$", "ms_quantize.1.embedding/scale"),
    (r"^coarse_quant/", "ms_quant_conv.0/"),
    (r"^fine_quant/", "ms_quant_conv.1/"),
    (r"^shared_post_quant/", "shared_post_quant_conv.0/"),
    (r"^shared_decoder/", "shared_decoder.0/"),
    (r"^upsample/", "upsample.0/"),
    (r"/fine_mid_res_(\d)/", r"/mid_ms.0.block_\1/"),
    (r"/coarse_mid_res_(\d)/", r"/mid_ms.1.block_\1/"),
    (r"/fine_mid_attn_1/", "/mid_ms.0.attn_1/"),
    (r"/coarse_mid_attn_1/", "/mid_ms.1.attn_1/"),
    (r"/fine_(norm|conv)_out/", r"/\1_out_ms.0/"),
    (r"/coarse_(norm|conv)_out/", r"/\1_out_ms.1/"),
    *AUTOENCODER,
)

# Matrices that are stored as convolutions of one pixel.
_PIXELS = re.compile(r"(^|/|_)(skip|quant|query|key|value|out)/kernel")
_CONVOLUTIONS = re.compile(r"conv_out/kernel")


def is_this(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a whole model."""
    return _STAGES in state


def is_first_stage(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a first stage alone."""
    return _COARSE_HEAD in state


def convert_frido(
    source: Path,
    state: Mapping[str, np.ndarray],
    file: Path,
    weights: str | None,
    tokenizer: Path | None,
    allowed: frozenset[str],
) -> Conversion:
    """Returns the parts of a whole model.

    Args:
      source: the checkpoint.
      state: its tensors.
      file: its yaml.
      weights: as of `conversion.convert`.
      tokenizer: of its text encoder.
      allowed: names that may be missing or unused.

    Raises:
      UserError: a setting, a name or a shape does not fit, or its condition is not supported.
    """
    params = compvis_config.read_yaml(file)
    others = (input_encoders.PREFIX,)
    if unexpected := set(compvis.unexpected_names(state, *others)) - allowed:
        raise UserError(f"the checkpoint holds {len(unexpected)} unexpected names: {some(sorted(unexpected))}")
    weights = weights or ("ema" if compvis_config.uses_average(params) else "raw")
    if weights != "raw" and not any(name.startswith(compvis.EMA_PREFIX) for name in state):
        raise UserError(f"{source} holds no moving average of its weights (model_ema.); give --weights raw")
    stage = first_stage_config(params)
    module = built("first stage", build_autoencoder, stage)
    settings = model_config(params, stage["scale_channels"], module.downsampling)
    settings["latents"] = {"scale": _scale(state, stage["scale_channels"]), "quantize": True}
    unet = built("PyU-Net", build_denoiser, settings["denoiser"])
    parts: dict[str, dict[str, Parameter] | Path] = {
        "denoiser": pyunet_plan(state, unet, ema=weights != "raw", allowed=allowed),
        "autoencoder": first_stage_plan(state, module, prefix=FIRST_STAGE_PREFIX, allowed=allowed),
    }
    if weights == "both":
        parts[RAW] = pyunet_plan(state, unet, allowed=allowed)
    side = settings["sampling"]["height"]
    named = {"name": source.stem, **settings, "autoencoder": stage, "weights": weights, **conventions(side)}
    vocabulary = None
    if (encoder := _text_encoder(state, params)) is not None:
        network = built("text encoder", build_text_encoder, without_padding(encoder))
        if encoder["kind"] == "clip":
            parts["text_encoder"] = text_encoder.plan_of_checkpoint(state, network, allowed)
        else:
            parts["text_encoder"] = input_encoders.encoder_plan(state, network, "tokens", "text encoder", allowed)
        named["text_encoder"] = encoder
        vocabulary = tokenizer_of(tokenizer, encoder["vocab_size"])
    return Conversion(KIND, named, parts, (source, file), vocabulary)


def convert_first_stage(
    source: Path, state: Mapping[str, np.ndarray], file: Path, allowed: frozenset[str]
) -> Conversion:
    """Returns a first stage alone, by its yaml; raises UserError as `convert_frido` does."""
    stage = first_stage_config(compvis_config.read_yaml(file))
    recipes = first_stage_plan(state, built("first stage", build_autoencoder, stage), allowed=allowed)
    named = {"name": source.stem, "autoencoder": stage}
    return Conversion(FIRST_STAGE_KIND, named, {"autoencoder": recipes}, (source, file))


def first_stage_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_autoencoder` of a yaml's "model.params", alone or in a whole model.

    Raises:
      UserError: a key that is needed is missing, or has a value that this first stage does not support.
    """
    own = Settings("the yaml", params)
    own = own.section("first_stage_config").section("params") if own.has("first_stage_config") else own
    defaults = {"out_ch": 3, "in_channels": 3, "dropout": 0.0}
    down, up = own.section("edconfig", defaults), own.section("ddconfig", defaults)
    for section in (down, up):
        section.require({"double_z": False, "attn_type": "vanilla"})
    down.require({"multiscale": 2})
    channels = own.wholes("embed_dim")
    if len(set(channels)) != 1 or len(channels) != 2 or down.wholes("z_channels") != channels:
        raise UserError(
            f"the yaml has embed_dim {channels} and z_channels {down.wholes('z_channels')}, and only two scales of as "
            "many channels each are supported"
        )
    shared = {key: down.whole(key) for key in ("ch", "num_res_blocks", "resolution")}
    up.require({**shared, "z_channels": sum(channels)})
    codes = own.wholes("n_embed")
    if len(codes) != 2:
        raise UserError(f"the yaml has n_embed {codes}, and a codebook for each of two scales is needed")
    return {
        "kind": "multi_scale_vq",
        **shared,
        "ch_mult": down.wholes("ch_mult"),
        "decoder_ch_mult": up.wholes("ch_mult"),
        "attn_resolutions": list(down.value("attn_resolutions")),
        "decoder_attn_resolutions": list(up.value("attn_resolutions")),
        "scale_channels": channels[0],
        "num_codes": codes,
        "in_channels": down.whole("in_channels"),
        "out_channels": up.whole("out_ch"),
    }


def model_config(params: Mapping[str, Any], scale_channels: int, downsampling: int) -> dict[str, Any]:
    """Returns the sections of a bundle that a yaml's "model.params" describe beside its first stage.

    Args:
      params: of the yaml.
      scale_channels: of each scale of the first stage.
      downsampling: of the first stage.

    Raises:
      UserError: a setting is missing or has a value that the PyU-Net does not support, or its stages do not fit the
        scales of the first stage.
    """
    given = Settings("the yaml", params).section("unet_config").section("params", {"num_stage": 2, "legacy": True})
    given.require({"use_split_head": True, "use_SPADE_norm": True, "num_stage": 2})
    stages = given.wholes("split_embed_dim_list")
    if stages != [scale_channels] * 2:
        raise UserError(
            f"the PyU-Net's stages have {stages} channels, and the first stage's scales {[scale_channels] * 2}; take "
            "the yaml that came with the checkpoint"
        )
    own = ["use_split_head", "use_SPADE_norm", "num_stage", "split_embed_dim_list"]
    heads = {}
    if given.flag("legacy"):  # in which the program has one head of all channels, whatever num_head_channels is
        own, heads = [*own, "num_head_channels"], {"num_heads": 1}
    unet = {str(key): value for key, value in given.given.items() if key not in own} | heads
    alike = {**params, "unet_config": {"params": unet}}
    settings = compvis_config.latent_diffusion_config(alike, downsampling, retrieval_only=False)
    noise = Settings("the yaml", params, {"noise_mix_ratio": 0.1}).any_number("noise_mix_ratio")
    sizes = {"in_channels": scale_channels, "out_channels": scale_channels}
    return {**settings, "denoiser": {**settings["denoiser"], "kind": "pyunet", **sizes, "coarse_noise": noise}}


def conventions(side: int) -> dict[str, Any]:
    """Returns how the program samples a model at `side` pixels."""
    return {
        "conditioning": {"neighbors": 0, "null": "zeros"},
        "sampling": {
            "condition": "text",
            "sampler": "ddim",
            "steps": 200,
            "eta": 0.0,
            "guidance_scale": 2.0,
            "height": side,
            "width": side,
        },
    }


def pyunet_plan(
    state: Mapping[str, np.ndarray], unet: PyUNet, *, ema: bool = False, allowed: frozenset[str] = frozenset()
) -> dict[str, Parameter]:
    """Returns how the PyU-Net's parameters are assembled, from the raw weights or from the EMA.

    Raises:
      UserError: a name is missing, unexpected or mis-shaped, and not in `allowed`; all are listed.
    """
    return compvis.unet_plan(state, unet, ema=ema, allowed=allowed, source_of=pyunet_source(unet, ema=ema))


def pyunet_source(unet: PyUNet, *, ema: bool = False, prefix: str = UNET_PREFIX) -> Callable[[str], Source]:
    """Returns the function from a parameter's path to the name of its tensor; see `compvis.unet_source`."""
    source_of = compvis.unet_source(unet, ema=ema, prefix=prefix, table=PYUNET)
    # The first convolutions are no blocks: numbers are one less than in other U-Nets.
    return lambda path: source_of(re.sub(r"^in_(\d+)_", lambda match: f"in_{int(match[1]) - 1}_", path))


def first_stage_plan(
    state: Mapping[str, np.ndarray],
    module: MultiScaleVQ,
    *,
    prefix: str = "",
    allowed: frozenset[str] = frozenset(),
) -> dict[str, Parameter]:
    """Returns how the first stage's parameters are assembled; `prefix` is "" for one released alone.

    The weights of the training loss ("loss.") are ignored.

    Raises:
      UserError: a name is missing, unexpected or mis-shaped, and not in `allowed`; all are listed.
    """
    return plan(
        Subset(state, prefix),
        abstract_params(module),
        lambda path: first_stage_source(path, prefix),
        what="first stage",
        ignored=lambda name: name.startswith((f"{prefix}loss.", f"{prefix}{compvis.EMA_PREFIX}")),
        allowed=allowed,
    )


def first_stage_source(path: str, prefix: str = FIRST_STAGE_PREFIX) -> Source:
    """Returns the name of the tensor of a first stage's parameter."""
    pixels = bool(_PIXELS.search(path)) and not _CONVOLUTIONS.search(path)
    return Source((prefix + rename(path, MULTI_SCALE),), pixel_axes=2 * pixels)


def _scale(state: Mapping[str, np.ndarray], scale_channels: int) -> list[float]:
    """Returns the factor of each channel of the latents; the checkpoint has one for each scale."""
    if "scale_factor" not in state:
        return [1.0] * (2 * scale_channels)
    (scales,) = shape_of(state, "scale_factor", 1, "checkpoint")
    values = np.asarray(state["scale_factor"], np.float64)
    if scales != 2 or not np.isfinite(values).all() or not values.all():
        raise UserError(
            f"scale_factor is {values.tolist()}, and a number other than 0 is needed for each of two scales"
        )
    return np.repeat(values, scale_channels).tolist()


def _text_encoder(state: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the settings of the text encoder of a checkpoint; None where tokens are vectors of a CLIP.

    Raises:
      UserError: it is conditioned on something else.
    """
    if text_encoder.is_text_conditioned(state):
        return text_encoder.config_from_checkpoint(state)
    if not any(name.startswith(input_encoders.PREFIX) for name in state):
        return None
    if input_encoders.TOKENS in state and latent_tasks.uses_tokenizer(params):
        return {"kind": "bert", **input_encoders.token_states_config(state, "text encoder"), "pad_id": 0}
    raise UserError(
        "this Frido is conditioned on layouts, labels or scene graphs, whose tokens are not known here; supported are "
        "those of prompts, and those without a cond_stage_model, which take vectors of a CLIP"
    )
