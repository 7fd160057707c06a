"""Weights of released U-ViTs (https://github.com/baofff/U-ViT), plain state dicts.

The table of class embeddings becomes the matrix that embeds the condition's vector: class k of n rows is the one-hot
vector [n] with entry k. The release's table of 1001 ImageNet classes has the class of no condition in its last row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert import patch_transformers as common
from rdm_jax.convert.compvis import LEAVES
from rdm_jax.convert.mapping import Parameter, Source, Table, built, plan, rename, shape_of
from rdm_jax.convert.settings import Settings
from rdm_jax.models import abstract_params, build_denoiser

KIND = "U-ViT"
HEADS = {512: 8, 768: 12, 1024: 16, 1152: 16}  # S, M, L, H
CLIP_TOKENS = 77  # of the released text models
OTHERS = ("num_heads", "qk_scale", "use_checkpoint")  # arguments that leave no trace in the tensors

_NAMES: Table = (
    (r"^patch_embed/conv/", "patch_embed/proj/"),
    (r"^time_1/", "time_embed/0/"),
    (r"^time_2/", "time_embed/2/"),
    (r"^vector/", "label_emb/"),
    (r"^(in|out)_(\d+)/", r"\1_blocks/\2/"),
    (r"^mid/", "mid_block/"),
    (r"/skip/", "/skip_linear/"),
    (r"/attn/out/", "/attn/proj/"),
    (r"/mlp/up/", "/mlp/fc1/"),
    (r"/mlp/down/", "/mlp/fc2/"),
    (r"^norm_out/", "norm/"),
    (r"^out/", "decoder_pred/"),
    (r"^conv_out/", "final_layer/"),
    *LEAVES,
)


def is_this(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a U-ViT."""
    return "decoder_pred.weight" in state and "mid_block.attn.qkv.weight" in state


def config(state: Mapping[str, np.ndarray], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_denoiser`.

    Args:
      state: the tensors.
      arguments: the constructor's, which need not be there for the published widths.

    Raises:
      UserError: a tensor is missing or has other axes, the arguments do not fit, or the heads are unknown.
    """
    width, channels, patch, _ = shape_of(state, "patch_embed.proj.weight", 4, KIND)
    rows = shape_of(state, "label_emb.weight", 2, KIND)[0] if "label_emb.weight" in state else 0
    context_dim = shape_of(state, "context_embed.weight", 2, KIND)[1] if "context_embed.weight" in state else 0
    own = Settings(f"arguments of the {KIND}", arguments, {"num_clip_token": CLIP_TOKENS})
    tokens = own.whole("num_clip_token") if context_dim else 0
    side = common.square_root(shape_of(state, "pos_embed", 3, KIND)[1] - 1 - (rows > 0) - tokens, KIND)
    found = {
        "img_size": side * patch,
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": 2 * common.count_blocks(state, "in_blocks"),
        "mlp_ratio": shape_of(state, "in_blocks.0.mlp.fc1.weight", 2, KIND)[0] / width,
        "qkv_bias": "in_blocks.0.attn.qkv.bias" in state,
        "mlp_time_embed": "time_embed.0.weight" in state,
        "skip": "out_blocks.0.skip_linear.weight" in state,
        "conv": "final_layer.weight" in state,
    }
    by = {"clip_dim": context_dim, "num_clip_token": tokens} if context_dim else {"num_classes": rows or -1}
    common.check_arguments(KIND, arguments, found | by, OTHERS)
    settings = {
        "kind": "uvit",
        "in_channels": channels,
        "out_channels": channels,
        "latent_size": side * patch,
        "patch_size": patch,
        "width": width,
        "depth": found["depth"],
        "heads": common.heads_of(KIND, width, arguments, HEADS),
        "mlp_ratio": found["mlp_ratio"],
        "time_mlp": found["mlp_time_embed"],
        "final_conv": found["conv"],
        "first_time": 1,
    }
    if context_dim:
        return {**settings, "context_dim": context_dim, "context_positions": tokens}
    return {**settings, "vector_dim": rows}


def recipes(
    state: Mapping[str, np.ndarray], settings: Mapping[str, Any], allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the parameters are made; raises UserError if names are missing, unexpected or mis-shaped."""
    return plan(
        state,
        abstract_params(built(KIND, build_denoiser, settings)),
        lambda path: Source((rename(path, _NAMES),), as_stored=path == "vector/kernel"),
        what=KIND,
        allowed=allowed,
    )


def conventions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sections of a bundle beside the denoiser.

    Latent models use Stable Diffusion's noise schedule, pixel models the variance-preserving one, here in 1000 steps.
    """
    latent = {"schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    pixel = {"schedule": "linear", "beta_start": 1e-4, "beta_end": 2e-2}
    return common.conventions(
        settings,
        latent if settings["in_channels"] == common.LATENT_CHANNELS else pixel,
        sampler="dpmpp_2m",
        steps=50,
        guidance_scale=1.4 if settings.get("vector_dim") else 2.0 if settings.get("context_dim") else 1.0,
    )
