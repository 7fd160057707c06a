"""GLIDE: the base model, the upsampler and the inpainting variants of both, each with its own text encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.adm import CHANNELS, UPSCALING, found_flags, source_in_order
from rdm_jax.convert.compvis import LEAVES, UNET
from rdm_jax.convert.guided_diffusion import Flags, conventions, read_flags, structure
from rdm_jax.convert.mapping import Parameter, Source, Table, built, plan, rename, shape_of
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_denoiser, build_text_encoder
from rdm_jax.parts import PADDING, without_padding

KIND = "GLIDE"
MASK = 1  # channels of a mask

_BASE, _UPSAMPLER = (1, 2, 3, 4), (1, 1, 2, 2, 4, 4)
PUBLISHED: Mapping[tuple[Any, ...], Flags] = {
    (192, _BASE): Flags(64, num_head_channels=64, noise_schedule="squaredcos_cap_v2"),
    (192, _UPSAMPLER): Flags(256, num_head_channels=64),
}
"""Flags by width and multiples."""

LAYOUTS: Mapping[int, str] = {
    0: "",
    CHANNELS + MASK: "known+mask",
    CHANNELS: "low_resolution",
    2 * CHANNELS + MASK: "known+mask+low_resolution",
}
"""What the channels beside the noisy image are, by their number."""

_UNET: Table = ((r"^vector/", "transformer_proj/"), *UNET)
_TEXT: Table = (
    (r"^tokens/embedding$", "token_embedding.weight"),
    (r"^positions$", "positional_embedding"),
    (r"^padding$", "padding_embedding"),
    (r"^norm_out/", "final_ln/"),
    (r"^block_(\d+)/", r"transformer.resblocks.\1/"),
    (r"/norm(\d)/", r"/ln_\1/"),
    (r"/qkv/", "/attn.c_qkv/"),
    (r"/out/", "/attn.c_proj/"),
    (r"/up/", "/mlp.c_fc/"),
    (r"/down/", "/mlp.c_proj/"),
    *LEAVES,
)
_TEXT_NAMES = re.compile(r"transformer\.|final_ln\.|token_embedding\.|positional_embedding|padding_embedding")


def is_this(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a U-Net of GLIDE."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "transformer_proj.weight"} <= set(state)


def config(
    state: Mapping[str, np.ndarray], arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], Flags]:
    """Returns the configurations for `build_denoiser` and of the text encoder, and the flags that no tensor shows.

    Args:
      state: the tensors.
      arguments: the program's flags; published models need none.

    Raises:
      UserError: a tensor is missing or of another rank, flags are unknown, needed or contradict the tensors, or the
        model takes other channels beside the noisy image than those of inpainting and upsampling.
    """
    own = structure(state, CHANNELS)
    if own["condition_channels"] not in LAYOUTS:
        raise UserError(
            f"the {KIND} takes {own['condition_channels']} channels beside the noisy image; known are "
            f"{', '.join(map(str, LAYOUTS))}"
        )
    published = PUBLISHED.get((own["model_channels"], tuple(own["channel_mult"])))
    flags = read_flags(KIND, arguments, published, found_flags(own))
    vocabulary, width = shape_of(state, "token_embedding.weight", 2, KIND)
    blocks = {match[1] for name in state if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))}
    if width % max(flags.xf_heads, 1) or flags.xf_heads < 1:
        raise UserError(
            f"xf_heads={flags.xf_heads} does not divide the width {width} of the text encoder; give its own"
        )
    text = {
        "kind": "padded",
        "vocab_size": vocabulary,
        "context_length": shape_of(state, "positional_embedding", 2, KIND)[0],
        "width": width,
        "layers": len(blocks),
        "heads": flags.xf_heads,
        "pad_token": vocabulary - 1,  # the end token
        PADDING: vocabulary - 1,
    }
    unet = {
        "kind": "unet",
        **own,
        "out_channels": shape_of(state, "out.2.weight", 4, KIND)[0],
        "context_dim": width,
        "attention": "block",
        "vector_dim": width,
        "vector_bias": True,
        **flags.heads,
    }
    return unet, text, flags


def recipes(
    state: Mapping[str, np.ndarray], settings: Mapping[str, Any], flags: Flags, allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the U-Net's parameters are made; raises UserError for names that are missing, unexpected or wrong."""
    unet = built(KIND, build_denoiser, settings)
    source = source_in_order(unet, flags, _UNET)
    targets = abstract_params(unet)
    return plan(state, targets, source, what=KIND, ignored=lambda name: bool(_TEXT_NAMES.match(name)), allowed=allowed)


def text_recipes(
    state: Mapping[str, np.ndarray], settings: Mapping[str, Any], allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the text encoder's parameters are made; raises UserError as `recipes` does."""
    encoder = built("text encoder", build_text_encoder, without_padding(settings))

    def source(path: str) -> Source:
        """Returns the tensors of one parameter."""
        grouped = (settings["heads"], 3) if "/qkv/" in path else None  # stored by head first
        return Source((rename(path, _TEXT),), swapped=grouped)

    return plan(
        state,
        abstract_params(encoder),
        source,
        what=f"text encoder of {KIND}",
        ignored=lambda name: not _TEXT_NAMES.match(name),
        allowed=allowed,
    )


def sections(settings: Mapping[str, Any], flags: Flags) -> dict[str, Any]:
    """Returns the sections of a bundle beside its networks: the published notebooks sample so."""
    channels = LAYOUTS[settings["condition_channels"]]
    conditioning: dict[str, Any] = {"channels": channels} if channels else {}
    known = channels.startswith("known")
    if "low_resolution" not in channels:
        return conventions(flags, {"steps": 100, "guidance_scale": 5.0 if known else 3.0}, conditioning)
    sampler = {} if known else {"sampler": "ddim"}
    conditioning["upscaling"] = UPSCALING
    upsampling = {**sampler, "spacing": "fast27", "steps": 27, "initial_noise": 0.997}
    return conventions(flags, upsampling, conditioning)
