"""Stable Diffusion 1 and 2: the settings of checkpoints that come without their yaml, and the defaults of sampling."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.compvis import FIRST_STAGE_PREFIX, UNET_PREFIX
from rdm_jax.convert.mapping import shape_of
from rdm_jax.core.errors import UserError

KIND = "Stable Diffusion checkpoint"
LATENT_SCALE = 0.18215


@dataclasses.dataclass(frozen=True)
class Release:
    """What the published programs sample with, and what no tensor holds.

    Attributes:
      side: of an image in pixels.
      guidance_scale: of classifier-free guidance.
      heads: of the U-Net, as settings of LDM's class.
    """

    side: int
    guidance_scale: float
    heads: Mapping[str, int]


RELEASES: Mapping[tuple[int, str], Release] = {
    (768, "eps"): Release(512, 7.5, {"num_heads": 8}),
    (1024, "eps"): Release(512, 9.0, {"num_head_channels": 64}),
    (1024, "v"): Release(768, 9.0, {"num_head_channels": 64}),
}
"""By the size of a text token and the prediction: versions 1.x, 2.x base, and 2.x at 768 pixels."""


INPAINTING = 1  # channels of a condition beside those of a second latent: the mask


def conventions(denoiser: Mapping[str, Any], prediction: str, side: int) -> dict[str, Any]:
    """Returns the conditioning and the sampling defaults of a model that reads prompts as sequences of tokens.

    Args:
      denoiser: the settings of its U-Net.
      prediction: "eps" or "v".
      side: of its images where it is none of `RELEASES`.

    Raises:
      UserError: the U-Net has channels beside the latents that are not those of inpainting.
    """
    release = RELEASES.get(
        (denoiser["context_dim"], prediction), Release(side, 7.5 if prediction == "eps" else 9.0, {})
    )
    beside = denoiser.get("condition_channels", 0)
    if beside not in (0, denoiser["in_channels"] + INPAINTING):
        raise UserError(
            f"the U-Net takes {beside} channels beside the latents, as of a depth or upscaling model; only inpainting "
            f"models, with {denoiser['in_channels'] + INPAINTING}, are converted"
        )
    return {
        "conditioning": {"neighbors": 0, "null": "zeros", **({"channels": "inpainting"} if beside else {})},
        "sampling": {
            "condition": "text",
            "sampler": "ddim",
            "steps": 50,
            "eta": 0.0,
            "guidance_scale": release.guidance_scale,
            "height": release.side,
            "width": release.side,
        },
    }


def checked_prediction(context_dim: int, prediction: str | None) -> str:
    """Returns what a U-Net of text tokens of this size predicts.

    Raises:
      UserError: there are several published models with such tokens, and `prediction` names none.
    """
    known = [name for width, name in RELEASES if width == context_dim]
    if not known:
        widths = ", ".join(str(width) for width, _ in RELEASES)
        raise UserError(
            f"the U-Net takes text tokens of {context_dim} numbers, and a checkpoint without its yaml has {widths}; "
            "give the yaml by --config"
        )
    if prediction is None and len(known) > 1:
        raise UserError(
            "Stable Diffusion 2 was released with two predictions, and no tensor says which this is; give --prediction "
            "eps (base, 512 pixels) or v (768 pixels), or the yaml by --config"
        )
    return prediction or known[0]


def yaml_params(state: Mapping[str, np.ndarray], prediction: str | None) -> dict[str, Any]:
    """Returns the "model.params" of the yaml that a checkpoint came with, as its shapes imply them.

    Args:
      state: its tensors.
      prediction: what the U-Net predicts; None where there is one model of such shapes.

    Raises:
      UserError: a tensor is missing or of another rank, or the prediction is needed.
    """
    unet = _unet(state)
    predicted = checked_prediction(unet["context_dim"], prediction)
    release = RELEASES.get((unet["context_dim"], predicted))
    return {
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "timesteps": 1000,
        "image_size": 64,
        "scale_factor": LATENT_SCALE,
        "use_ema": False,
        "parameterization": predicted,
        "unet_config": {"params": {**unet, **(release.heads if release else {"num_heads": 8})}},
        "first_stage_config": {"params": _first_stage(state)},
    }


def _unet(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the settings of a U-Net of LDM's that its shapes imply; the heads are not among them."""
    names = {name.removeprefix(UNET_PREFIX) for name in state if name.startswith(UNET_PREFIX)}

    def channels(name: str, axis: int = 0) -> int:
        return shape_of(state, f"{UNET_PREFIX}{name}.weight", 4, "U-Net")[axis]

    width, widths, attention = channels("input_blocks.0.0"), [[]], []
    blocks = 1 + max(_numbers(names, r"input_blocks\.(\d+)\."))
    for block in range(1, blocks):
        if f"input_blocks.{block}.0.op.weight" in names:
            widths.append([])
            continue
        widths[-1].append(channels(f"input_blocks.{block}.0.in_layers.2"))
        if f"input_blocks.{block}.1.proj_in.weight" in names:
            attention.append(2 ** (len(widths) - 1))
    transformer = r"middle_block\.1\.transformer_blocks\.(\d+)\."
    key = f"{UNET_PREFIX}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    return {
        "in_channels": channels("input_blocks.0.0", 1),
        "out_channels": channels("out.2"),
        "model_channels": width,
        "channel_mult": [level[0] // width for level in widths if level],
        "num_res_blocks": len(widths[0]),
        "attention_resolutions": list(dict.fromkeys(attention)),
        "use_spatial_transformer": True,
        "transformer_depth": len(_numbers(names, transformer)),
        "context_dim": shape_of(state, key, 2, "U-Net")[1],
    }


def _first_stage(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the settings of a KL autoencoder that its shapes imply."""
    names = {name.removeprefix(FIRST_STAGE_PREFIX) for name in state if name.startswith(FIRST_STAGE_PREFIX)}
    if not names:
        raise UserError("the checkpoint holds no autoencoder (first_stage_model.); give a complete one")

    def channels(name: str, axis: int = 0) -> int:
        return shape_of(state, f"{FIRST_STAGE_PREFIX}{name}.weight", 4, "autoencoder")[axis]

    ch, levels = channels("encoder.conv_in"), len(_numbers(names, r"encoder\.down\.(\d+)\."))
    return {
        "embed_dim": channels("post_quant_conv", 1),
        "ddconfig": {
            "double_z": True,
            "z_channels": channels("decoder.conv_in", 1),
            "resolution": 256,
            "in_channels": channels("encoder.conv_in", 1),
            "out_ch": channels("decoder.conv_out"),
            "ch": ch,
            "ch_mult": [channels(f"encoder.down.{level}.block.0.conv2") // ch for level in range(levels)],
            "num_res_blocks": len(_numbers(names, r"encoder\.down\.0\.block\.(\d+)\.")),
            "attn_resolutions": [],
        },
    }


def _numbers(names: set[str], pattern: str) -> set[int]:
    """Returns the numbers that a pattern's group has in names; {0} where it matches none."""
    return {int(match[1]) for name in names if (match := re.match(pattern, name))} or {0}


UNSUPPORTED: Mapping[str, str] = {
    r"conditioner\.embedders\.": "a Stable Diffusion XL checkpoint",
    r"(model\.diffusion_model\.)?joint_blocks\.": "a Stable Diffusion 3 checkpoint",
    r"(model\.diffusion_model\.)?double_blocks\.": "a Flux checkpoint",
    r"model\.diffusion_model\.label_emb\.": "an upscaler or unCLIP checkpoint of Stable Diffusion",
    r"lora_(unet|te)\d*_|(unet|text_encoder)\..*lora": "a LoRA (give it to `rdm sample --lora`)",
    r"control_model\.|controlnet_cond_embedding\.": "a ControlNet",
}
"""By a pattern of the start of a tensor's name: files of related programs that are not converted."""

UNSUPPORTED_PIPELINES = {"XL": "Stable Diffusion XL", "StableDiffusion3": "Stable Diffusion 3", "Flux": "Flux"}
"""The same by a part of the class in a folder's model_index.json."""


def check_supported(state: Mapping[str, np.ndarray], source: Any) -> None:
    """Raises UserError for a file that is recognized and that no part of this program reads; it says what it is."""
    for pattern, what in UNSUPPORTED.items():
        if any(re.match(pattern, name) for name in state):
            raise _unsupported(source, what)


def check_pipeline(name: str, source: Any) -> None:
    """Raises UserError for a folder of a pipeline that is recognized and not supported; it says what it is.

    Args:
      name: of the class in model_index.json.
      source: the folder.
    """
    for part, what in UNSUPPORTED_PIPELINES.items():
        if part in name:
            raise _unsupported(source, f"a pipeline of {what}")


def _unsupported(source: Any, what: str) -> UserError:
    return UserError(
        f"{source} is {what}, which is not converted; Stable Diffusion 1.x and 2.x are converted from whole "
        "checkpoints and from folders of diffusers"
    )
