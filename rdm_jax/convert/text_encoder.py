"""Weights and configurations of text encoders that give a state for every token, as Stable Diffusion has them.

Version 1 holds the text tower of OpenAI's CLIP in the layout of Hugging Face, version 2 that of OpenCLIP; a folder of
diffusers has the layout of Hugging Face for both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert import input_encoders
from rdm_jax.convert.clip import TEXT_DEFAULTS, hugging_face_source, openai_source, tower_settings
from rdm_jax.convert.mapping import Parameter, Source, Subset, plan, shape_of
from rdm_jax.convert.settings import Settings
from rdm_jax.core.errors import UserError
from rdm_jax.models import TextEncoder, TextStates, abstract_params

PREFIX = "cond_stage_model."
VOCABULARY = TEXT_DEFAULTS["vocab_size"]
HEAD_CHANNELS = 64  # of both CLIPs; a file of tensors does not hold it

_TRANSFORMERS, _OPEN_CLIP = f"{PREFIX}transformer.", f"{PREFIX}model."
_INNER = "text_model."  # within the layout of Hugging Face; some programs leave it out
_WHAT = "text encoder"

# Stored beside the weights that are read: positions, masks, and what makes one vector of the states.
_BESIDE = re.compile(r".*(position_ids|attn_mask|logit_scale|text_projection(\.weight)?)")


def is_text_conditioned(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a checkpoint holds the text tower of a CLIP."""
    return input_encoders.TOKENS not in state and any(name.startswith((_TRANSFORMERS, _OPEN_CLIP)) for name in state)


def config_from_checkpoint(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the settings of the text encoder of a checkpoint, which the layout and the shapes imply.

    OpenCLIP's is read after the last block but one, and pads with 0; OpenAI's after the last one, and pads with the end
    token.

    Raises:
      UserError: a tensor is missing, or has another number of axes.
    """
    openclip = any(name.startswith(_OPEN_CLIP) for name in state)
    prefix = _prefix(state)
    names = {key: prefix + name for key, name in (_OPENAI_NAMES if openclip else _HUGGING_FACE_NAMES).items()}
    vocab_size, width = shape_of(state, names["tokens"], 2, _WHAT)
    blocks = {match[1] for match in (re.match(re.escape(names["block"]) + r"(\d+)\.", name) for name in state) if match}
    return {
        "kind": "clip",
        "width": width,
        "layers": len(blocks) - openclip,
        "heads": max(1, width // HEAD_CHANNELS),
        "vocab_size": vocab_size,
        "context_length": shape_of(state, names["positions"], 2, _WHAT)[0],
        "activation": "gelu" if openclip else "quick_gelu",
        "pad_id": 0 if openclip else vocab_size - 1,
    }


_HUGGING_FACE_NAMES = {
    "tokens": "embeddings.token_embedding.weight",
    "positions": "embeddings.position_embedding.weight",
    "block": "encoder.layers.",
}
_OPENAI_NAMES = {
    "tokens": "token_embedding.weight",
    "positions": "positional_embedding",
    "block": "transformer.resblocks.",
}


def config_from_hugging_face(config: Mapping[str, Any], pad_id: int | None) -> dict[str, Any]:
    """Returns the settings that the config.json of a CLIPTextModel describes.

    Args:
      config: its content.
      pad_id: of the tokenizer; None for the end token.

    Raises:
      UserError: it describes another model, or a setting has no valid value.
    """
    if config.get("model_type", "clip_text_model") not in ("clip_text_model", "clip"):
        raise UserError(f"text_encoder/config.json describes a {config['model_type']!r}, not the text tower of a CLIP")
    own = Settings("text_encoder/config.json", config, TEXT_DEFAULTS)
    vocab_size = own.whole("vocab_size")
    return {
        "kind": "clip",
        **tower_settings(own),
        "vocab_size": vocab_size,
        "context_length": own.whole("max_position_embeddings"),
        "pad_id": vocab_size - 1 if pad_id is None else pad_id,
    }


def pooled_config_from_hugging_face(config: Mapping[str, Any], pad_id: int | None) -> dict[str, Any]:
    """Returns the settings that the config.json of a CLIPTextModelWithProjection describes.

    Args:
      config: its content.
      pad_id: of the tokenizer; None for the end token.

    Raises:
      UserError: it describes another model, or a setting has no valid value.
    """
    settings = config_from_hugging_face(config, pad_id)
    own = Settings("text_encoder/config.json", config, {**TEXT_DEFAULTS, "projection_dim": 512})
    eos = own.whole("eos_token_id")
    readout = {"embed_dim": own.whole("projection_dim"), "eos_id": None if eos == 2 else eos}  # 2: see convert.clip
    return {**settings, "kind": "pooled_clip", **readout}


def plan_of_checkpoint(
    state: Mapping[str, np.ndarray], encoder: TextStates, allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the parameters of a checkpoint's text encoder are assembled.

    Raises:
      UserError: a name is missing, unexpected or mis-shaped, and not in `allowed`; all are listed.
    """
    prefix = _prefix(state)
    if prefix == _OPEN_CLIP:
        last = f"{prefix}{_OPENAI_NAMES['block']}{encoder.layers}."  # the block that is not read
        return _plan(Subset(state, PREFIX), encoder, lambda path: _named(openai_source(path), prefix), allowed, last)
    return _plan(Subset(state, PREFIX), encoder, lambda path: _named(_bare(path), prefix), allowed)


def plan_of_folder(
    state: Mapping[str, np.ndarray], encoder: TextEncoder, allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the parameters of the folder of a CLIPTextModel are assembled; see `plan_of_checkpoint`."""
    inner = any(name.startswith(_INNER) for name in state)
    return _plan(state, encoder, hugging_face_source if inner else _bare, allowed)


def _plan(
    state: Mapping[str, np.ndarray],
    encoder: TextEncoder,
    source_of: Any,
    allowed: frozenset[str],
    last: str = "\0",
) -> dict[str, Parameter]:
    return plan(
        state,
        abstract_params(encoder),
        lambda path: source_of(f"text/{path}"),
        what=_WHAT,
        ignored=lambda name: bool(_BESIDE.fullmatch(name)) or name.startswith(last),
        allowed=allowed,
    )


def _prefix(state: Mapping[str, np.ndarray]) -> str:
    """Returns what precedes the names of a checkpoint's text encoder."""
    prefixes = (_OPEN_CLIP, _TRANSFORMERS + _INNER, _TRANSFORMERS)
    return next(prefix for prefix in prefixes if any(name.startswith(prefix) for name in state))


def _bare(path: str) -> Source:
    """Returns the names of a parameter in the layout of Hugging Face, within the tower."""
    source = hugging_face_source(path)
    return Source(tuple(name.removeprefix(_INNER) for name in source.names))


def _named(source: Source, prefix: str) -> Source:
    return Source(tuple(prefix + name for name in source.names), as_stored=source.as_stored)
