"""Weights of released DiTs (https://github.com/facebookresearch/DiT), plain state dicts.

The table of class embeddings becomes the matrix that embeds the condition's vector: class k of n is the one-hot vector
[n + 1] with entry k, and the last entry is the class of no condition. SiT's checkpoints have the same names and shapes
(`convert.sit`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert import patch_transformers as common
from rdm_jax.convert.compvis import LEAVES
from rdm_jax.convert.mapping import Parameter, Source, Table, built, plan, rename, shape_of
from rdm_jax.convert.settings import Settings
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_denoiser
from rdm_jax.models.vit_layers import positions

KIND = "DiT"
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # S, B, L, XL
OTHERS = ("num_heads", "class_dropout_prob")  # arguments that leave no trace in the tensors

_NAMES: Table = (
    (r"^patch_embed/conv/", "x_embedder/proj/"),
    (r"^time_1/", "t_embedder/mlp/0/"),
    (r"^time_2/", "t_embedder/mlp/2/"),
    (r"^vector/", "y_embedder/embedding_table/"),
    (r"^block_(\d+)/", r"blocks/\1/"),
    (r"/modulation/", "/adaLN_modulation/1/"),
    (r"/attn/out/", "/attn/proj/"),
    (r"/mlp/up/", "/mlp/fc1/"),
    (r"/mlp/down/", "/mlp/fc2/"),
    (r"^modulation_out/", "final_layer/adaLN_modulation/1/"),
    (r"^out/", "final_layer/linear/"),
    *LEAVES,
)


def is_this(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a DiT."""
    return "x_embedder.proj.weight" in state and "blocks.0.adaLN_modulation.1.weight" in state


def config(state: Mapping[str, np.ndarray], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_denoiser`.

    Args:
      state: the tensors.
      arguments: the constructor's, which need not be there for the published widths.

    Raises:
      UserError: a tensor is missing or has other axes, the arguments do not fit, or the heads are unknown.
    """
    width, channels, patch, _ = shape_of(state, "x_embedder.proj.weight", 4, KIND)
    rows = shape_of(state, "y_embedder.embedding_table.weight", 2, KIND)[0]
    side = common.square_root(shape_of(state, "pos_embed", 3, KIND)[1], KIND)
    out = shape_of(state, "final_layer.linear.weight", 2, KIND)[0] // patch**2
    dropped = Settings(f"arguments of the {KIND}", arguments, {"class_dropout_prob": 0.1}).any_number(
        "class_dropout_prob"
    )
    found = {
        "input_size": side * patch,
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": common.count_blocks(state, "blocks"),
        "mlp_ratio": shape_of(state, "blocks.0.mlp.fc1.weight", 2, KIND)[0] / width,
        "num_classes": rows - (dropped > 0),
        "learn_sigma": out == 2 * channels,
    }
    common.check_arguments(KIND, arguments, found, OTHERS)
    return {
        "kind": "dit",
        "in_channels": channels,
        "out_channels": out,
        "latent_size": side * patch,
        "patch_size": patch,
        "width": width,
        "depth": found["depth"],
        "heads": common.heads_of(KIND, width, arguments, HEADS),
        "vector_dim": rows,
        "mlp_ratio": found["mlp_ratio"],
    }


def recipes(
    state: Mapping[str, np.ndarray], settings: Mapping[str, Any], allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the parameters are made.

    Raises:
      UserError: names are missing, unexpected or mis-shaped, or the stored positions are not the sinusoidal ones.
    """
    side, width = settings["latent_size"] // settings["patch_size"], settings["width"]
    denoiser = built(KIND, build_denoiser, settings)
    stored_channels = state["final_layer.linear.weight"].shape[0] // settings["patch_size"] ** 2
    kept = (settings["out_channels"], stored_channels)
    stored, expected = state["pos_embed"][0], positions(side, side, side, width)
    if stored.shape != expected.shape or not np.allclose(stored, expected, atol=1e-3):
        raise UserError(f"the {KIND}'s stored positions are not the sinusoidal ones; only those are supported")
    return plan(
        state,
        abstract_params(denoiser),
        lambda path: Source(
            (rename(path, _NAMES),),
            as_stored=path == "vector/kernel",
            leading=kept if path.startswith("out/") and kept[0] != kept[1] else None,
        ),
        what=KIND,
        ignored=lambda name: name == "pos_embed",
        allowed=allowed,
    )


def conventions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sections of a bundle beside the denoiser.

    The release guides three of four latent channels by 1.5, which is about 1.375 on all of them (section 5.1).
    """
    learned = settings["out_channels"] == 2 * settings["in_channels"]
    return common.conventions(
        settings,
        {"schedule": "linear", "beta_start": 1e-4, "beta_end": 2e-2},
        sampler="ddpm(variance='learned')" if learned else "ddpm",
        steps=250,
        guidance_scale=1.375,
    )
