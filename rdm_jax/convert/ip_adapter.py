"""Weights of IP-Adapter: the projection of an image's vector, and keys and values for each attention to the text.

A file has the two under "image_proj." and "ip_adapter."; PyTorch's has two dictionaries of these names. The attention
layers are numbered in the order of diffusers: the way down, the way up, then the middle; self-attention has the even
numbers and no tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.mapping import Parameter, Source, Subset, plan, shape_of
from rdm_jax.core.errors import UserError
from rdm_jax.models import UNet, abstract_params, build_image_adapter

PROJECTION, ATTENTION = "image_proj.", "ip_adapter."
NEIGHBORS, SCALE = 4, 0.5  # as many tokens as the widest published use, and the scale that is advised beside a text

_WHAT = "IP-Adapter"
_NAMES = {"image_key": "to_k_ip", "image_value": "to_v_ip"}
_KINDS = {
    "latents": "a plus adapter (a resampler of the encoder's patches)",
    "proj.0.weight": "a full-face adapter (all of the encoder's patches)",
}


def is_ip_adapter(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether tensors are those of an adapter."""
    return any(name.startswith(ATTENTION) for name in state) and any(name.startswith(PROJECTION) for name in state)


def projection_config(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the settings of an adapter's projection, by its shapes.

    Raises:
      UserError: the tensors are no adapter's, or one of a kind that is not supported.
    """
    if not is_ip_adapter(state):
        raise UserError("the file given by --ip-adapter holds no image_proj and ip_adapter; give an IP-Adapter")
    for name, kind in _KINDS.items():
        if PROJECTION + name in state:
            raise UserError(f"the file given by --ip-adapter is {kind}; only those that read one vector are supported")
    size, vector_dim = shape_of(state, f"{PROJECTION}proj.weight", 2, _WHAT)
    (token_dim,) = shape_of(state, f"{PROJECTION}norm.weight", 1, _WHAT)
    return {"kind": "vector", "vector_dim": vector_dim, "token_dim": token_dim, "tokens": size // token_dim}


def projection_plan(
    state: Mapping[str, np.ndarray], settings: Mapping[str, Any], allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the projection's parameters are assembled; raises UserError if names or shapes do not fit."""
    names = {"projection/kernel": "proj.weight", "projection/bias": "proj.bias"}
    names |= {"norm_out/scale": "norm.weight", "norm_out/bias": "norm.bias"}
    targets = abstract_params(build_image_adapter(settings))
    own = Subset(state, PROJECTION)
    return plan(own, targets, lambda path: Source((PROJECTION + names[path],)), what=_WHAT, allowed=allowed)


def attention_plan(
    state: Mapping[str, np.ndarray], unet: UNet, allowed: frozenset[str] = frozenset()
) -> dict[str, Parameter]:
    """Returns how the adapter's part of a U-Net's parameters is assembled.

    Args:
      state: of the adapter.
      unet: with `adapter`.
      allowed: names that may be missing or unused.

    Raises:
      UserError: a name is missing, unexpected or mis-shaped; all are listed.
    """
    targets = {
        path: leaf for path, leaf in abstract_params(unet).items() if any(f"/{name}/" in path for name in _NAMES)
    }
    layers = sorted({path.rpartition("/attn2/")[0] for path in targets}, key=_order)
    numbers = {layer: 2 * place + 1 for place, layer in enumerate(layers)}

    def source_of(path: str) -> Source:
        layer, _, rest = path.rpartition("/attn2/")
        return Source((f"{ATTENTION}{numbers[layer]}.{_NAMES[rest.partition('/')[0]]}.weight",))

    return plan(Subset(state, ATTENTION), targets, source_of, what=f"{_WHAT} of this U-Net", allowed=allowed)


def _order(layer: str) -> tuple[int, int, int]:
    """Returns the place of a transformer block, as in "out_3_attn/block_0", among those of a U-Net."""
    match = re.fullmatch(r"(in|out|mid)_(\d+)_attn/block_(\d+)", layer)
    assert match is not None, layer
    return ("in", "out", "mid").index(match[1]), int(match[2]), int(match[3])
