"""Weights of the encoders of latent diffusion's conditions: classes, label maps, and sequences of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.compvis import LEAVES
from rdm_jax.convert.mapping import Parameter, Source, Subset, Table, plan, rename, shape_of
from rdm_jax.models import abstract_params

PREFIX = "cond_stage_model."
CLASSES = f"{PREFIX}embedding.weight"
LABELS = f"{PREFIX}channel_mapper.weight"
TOKENS = f"{PREFIX}transformer.token_emb.weight"

_POSITIONS = f"{PREFIX}transformer.pos_emb.emb.weight"
_UNUSED = (f"{PREFIX}transformer.to_logits.",)  # the program computes states alone

_TOKEN_STATES: Table = (
    (r"^tokens/embedding$", "token_emb/scale"),
    (r"^positions$", "pos_emb/emb/scale"),
    (r"^norm_out/", "norm/"),
    (r"/norm[12]/", "/0/"),
    (r"/attn/query/", "/1/to_q/"),
    (r"/attn/key/", "/1/to_k/"),
    (r"/attn/value/", "/1/to_v/"),
    (r"/attn/out/", "/1/to_out/"),
    (r"/up/", "/1/net/0/0/"),
    (r"/down/", "/1/net/2/"),
    *LEAVES,
)


def token_states_config(state: Mapping[str, np.ndarray], what: str) -> dict[str, Any]:
    """Returns the settings of a transformer of tokens, which its shapes imply; its heads are always 8 of 64 channels.

    Args:
      state: of a checkpoint.
      what: the network's name in errors.

    Raises:
      UserError: a tensor is missing, or has another number of axes.
    """
    vocab_size, width = shape_of(state, TOKENS, 2, what)
    layers = re.compile(re.escape(f"{PREFIX}transformer.attn_layers.layers.") + r"(\d+)\.")
    numbers = {int(match[1]) for name in state if (match := layers.match(name))}
    return {
        "vocab_size": vocab_size,
        "context_length": shape_of(state, _POSITIONS, 2, what)[0],
        "width": width,
        "layers": len(numbers) // 2,  # attention and feed-forward are numbered each
    }


def token_states_source(path: str) -> Source:
    """Returns the name of the tensor of a parameter of `models.TokenStates`."""
    if match := re.match(r"block_(\d+)/(norm1|attn)/", path):
        number = 2 * int(match[1])
    elif match := re.match(r"block_(\d+)/", path):
        number = 2 * int(match[1]) + 1
    else:
        return Source((f"{PREFIX}transformer.{rename(path, _TOKEN_STATES)}",))
    inner = rename(path[path.index("/") :], _TOKEN_STATES)
    return Source((f"{PREFIX}transformer.attn_layers.layers.{number}{inner}",))


def class_source(path: str) -> Source:
    """Returns the name of the tensor of the parameter of `models.ClassToken`."""
    return Source((CLASSES,))


def labels_source(path: str) -> Source:
    """Returns the name of the tensor of the parameter of `models.LabelMap`."""
    return Source((LABELS,), pixel_axes=2)


SOURCES: Mapping[str, Callable[[str], Source]] = {
    "class": class_source,
    "labels": labels_source,
    "tokens": token_states_source,
}
"""By the kind of the encoder (`models.INPUT_ENCODERS`)."""


def encoder_plan(
    state: Mapping[str, np.ndarray], encoder: Any, kind: str, what: str, allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the parameters of an encoder are assembled.

    Args:
      state: of a checkpoint.
      encoder: the network.
      kind: a name in `SOURCES`.
      what: the network's name in errors.
      allowed: names that may be missing or unused.

    Raises:
      UserError: a name is missing, unexpected or mis-shaped, and not in `allowed`; all are listed.
    """
    return plan(
        Subset(state, PREFIX),
        abstract_params(encoder),
        SOURCES[kind],
        what=what,
        ignored=lambda name: name.startswith(_UNUSED),
        allowed=allowed,
    )
