"""Weights of released RARM checkpoints (https://github.com/CompVis/retrieval-augmented-diffusion-models).

A checkpoint holds the transformer under "transformer." and the first stage under "first_stage_model.". The released
configurations name another first stage than those for training; the checkpoint's codebook decides which one it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert import compvis
from rdm_jax.convert.compvis_config import autoencoder_config
from rdm_jax.convert.mapping import Parameter, Source, Subset, Table, number_of, plan, rename, shape_of
from rdm_jax.convert.settings import Settings
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_autoencoder
from rdm_jax.models.token_transformer import TokenTransformer

PREFIX = "transformer."
_TOKENS = ("sos_token", "mask_token")
_CODEBOOK = compvis.FIRST_STAGE_PREFIX + "quantize.embedding.weight"

_TRANSFORMER: Table = (
    (r"^embed/embedding$", "proj_in/kernel"),
    (r"^logits/", "proj_out/"),
    (r"^positions$", "positional_encoding"),
    (r"^block_", "/block_"),
    *compvis.TRANSFORMER,
    (r"^/", ""),
    *compvis.LEAVES,
)
# Settings of the yaml's transformer that have one supported value.
_FIXED = {"cross_attend": True, "causal": True, "continuous": False, "positional_encodings": True}


def is_rarm(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of an autoregressive transformer with its first stage."""
    return any(name.startswith(f"{PREFIX}transformer_blocks.") for name in state)


def unexpected_names(state: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names that belong to neither network and are not the two extra tokens."""
    return sorted(n for n in state if not n.startswith((PREFIX, compvis.FIRST_STAGE_PREFIX)) and n not in _TOKENS)


def transformer_config(state: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_transformer`: sizes from the tensors, the heads from the yaml.

    Args:
      state: the checkpoint's tensors.
      params: the yaml's "model.params".

    Raises:
      UserError: a tensor or a setting is missing, or a setting has a value that this transformer does not have.
    """
    own = Settings("the yaml", params).section("transformer_config").section("params")
    for key, value in _FIXED.items():
        if own.given.get(key, value) != value:
            raise UserError(f"the transformer's {key} is {own.given[key]}, and only {key}={value} is supported")
    blocks = {match[1] for name in state if (match := re.match(r"transformer\.transformer_blocks\.(\d+)\.", name))}
    width, num_tokens = _shape(state, "positional_encoding")
    return {
        "num_codes": _first_axis(state, "proj_out.weight"),
        "num_tokens": num_tokens,
        "width": width,
        "depth": len(blocks),
        "context_dim": _shape(state, "transformer_blocks.0.attn2.to_k.weight")[1],
        "head_channels": own.whole("d_head"),
    }


def first_stage_config(state: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_autoencoder` of the yaml, whose codebook must be the checkpoint's.

    Raises:
      UserError: the codebooks differ, or a key or the codebook is missing.
    """
    config = autoencoder_config(params)
    stored, described = shape_of(state, _CODEBOOK, 2, "checkpoint"), (config.get("num_codes"), config["embed_dim"])
    if stored != described:
        raise UserError(
            f"the yaml's first stage has a codebook of {described[0]} codes with {described[1]} channels, and the "
            f"checkpoint's has {stored[0]} with {stored[1]}; give the yaml that was released with the checkpoint"
        )
    return config


def conventions(transformer: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how the released models are conditioned, and the sampling defaults of their script.

    Args:
      transformer: its configuration; its positions are a square of codes.
      stage: the first stage's configuration.
    """
    side = math.isqrt(transformer["num_tokens"]) * build_autoencoder(stage).downsampling
    return {
        "head": "autoregressive",
        "conditioning": {"neighbors": 4, "unit_tokens": False, "null": "zeros"},
        "sampling": {
            "condition": "neighbors",
            "temperature": 1.0,
            "top_k": 256,
            "top_p": 1.0,
            "guidance_scale": 1.0,
            "height": side,
            "width": side,
        },
    }


def transformer_plan(
    state: Mapping[str, np.ndarray], transformer: TokenTransformer, allowed: frozenset[str] = frozenset()
) -> dict[str, Parameter]:
    """Returns how the transformer's parameters are assembled.

    Raises:
      UserError: a name is missing, unexpected or mis-shaped, and not in `allowed`; or the start and mask tokens are
        not those of this transformer.
    """
    expected = {"sos_token": transformer.start_token, "mask_token": transformer.mask_token}
    for name in expected.keys() & set(state):
        stored = int(number_of(state, name))
        if stored != expected[name]:
            raise UserError(f"the checkpoint's {name} is {stored}, and only {expected[name]} is supported")
    return plan(
        Subset(state, PREFIX), abstract_params(transformer), transformer_source, what="transformer", allowed=allowed
    )


def transformer_source(path: str) -> Source:
    """Returns the names of a transformer's parameter."""
    name = PREFIX + rename(path, _TRANSFORMER)
    # The embedding is stored (token, channel) like the parameter, the positions (channel, position).
    return Source((name,), transposed=path == "positions", pixel_axes=int(path == "logits/kernel"))


def _shape(state: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    return shape_of(state, PREFIX + name, 2, "checkpoint")


def _first_axis(state: Mapping[str, np.ndarray], name: str) -> int:
    """Returns the first axis of a matrix that may be stored as a convolution, with one axis more or two."""
    rank = state[PREFIX + name].ndim if PREFIX + name in state else 2
    return shape_of(state, PREFIX + name, max(2, min(rank, 4)), "checkpoint")[0]
