"""Weights of IP-Adapter: what makes tokens of an image, and keys and values for each attention to the text.

A file has the two under "image_proj." and "ip_adapter."; PyTorch's has two dictionaries of these names. The first is a
projection of the image's vector, a resampler of its patches (plus), or a projection of each patch (full face). The
attention layers are numbered in the order of diffusers: the way down, the way up, then the middle; self-attention has
the even numbers and no tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.compvis import LEAVES
from rdm_jax.convert.mapping import Parameter, Source, Subset, Table, plan, rename, shape_of
from rdm_jax.core.errors import UserError
from rdm_jax.models import UNet, abstract_params, build_image_adapter
from rdm_jax.models.image_adapter import HEAD_CHANNELS

PROJECTION, ATTENTION = "image_proj.", "ip_adapter."
NEIGHBORS, SCALE = 4, 0.5  # as many tokens as the widest published use, and the scale that is advised beside a text

_WHAT = "IP-Adapter"
_NAMES = {"image_key": "to_k_ip", "image_value": "to_v_ip"}
_VECTOR: Table = ((r"^projection/", "proj/"), (r"^norm_out/", "norm/"), *LEAVES)
_PATCHES: Table = (
    (r"^layer_(\d+)/norm_patches/", r"layers.\1.0.norm1/"),
    (r"^layer_(\d+)/norm_latents/", r"layers.\1.0.norm2/"),
    (r"^layer_(\d+)/query/", r"layers.\1.0.to_q/"),
    (r"^layer_(\d+)/key_value/", r"layers.\1.0.to_kv/"),
    (r"^layer_(\d+)/out/", r"layers.\1.0.to_out/"),
    (r"^layer_(\d+)/norm/", r"layers.\1.1.0/"),
    (r"^layer_(\d+)/up/", r"layers.\1.1.1/"),
    (r"^layer_(\d+)/down/", r"layers.\1.1.3/"),
    *LEAVES,
)
_ALL_PATCHES: Table = ((r"^up/", "proj.0/"), (r"^down/", "proj.2/"), (r"^norm_out/", "proj.3/"), *LEAVES)
_TABLES = {"vector": _VECTOR, "patches": _PATCHES, "all_patches": _ALL_PATCHES}


def is_ip_adapter(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether tensors are those of an adapter."""
    return any(name.startswith(ATTENTION) for name in state) and any(name.startswith(PROJECTION) for name in state)


def projection_config(state: Mapping[str, np.ndarray], states: int) -> dict[str, Any]:
    """Returns the settings of an adapter's projection, by its shapes.

    Args:
      state: the tensors.
      states: of each image by the CLIP's image tower: its patches and the class token.

    Raises:
      UserError: the tensors are no adapter's, or one of a kind that is not supported.
    """
    if not is_ip_adapter(state):
        raise UserError("the file given by --ip-adapter holds no image_proj and ip_adapter; give an IP-Adapter")
    if f"{PROJECTION}latents" in state:
        return _resampler_config(state)
    if f"{PROJECTION}proj.0.weight" in state:
        token_dim, patch_dim = shape_of(state, f"{PROJECTION}proj.2.weight", 2, _WHAT)
        return {"kind": "all_patches", "patch_dim": patch_dim, "token_dim": token_dim, "tokens": states}
    size, vector_dim = shape_of(state, f"{PROJECTION}proj.weight", 2, _WHAT)
    (token_dim,) = shape_of(state, f"{PROJECTION}norm.weight", 1, _WHAT)
    return {"kind": "vector", "vector_dim": vector_dim, "token_dim": token_dim, "tokens": size // token_dim}


def _resampler_config(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the settings of a plus adapter's resampler, whose heads have 64 channels."""
    _, tokens, width = shape_of(state, f"{PROJECTION}latents", 3, _WHAT)
    layers = {match[1] for match in (re.match(rf"{PROJECTION}layers\.(\d+)\.", name) for name in state) if match}
    return {
        "kind": "patches",
        "patch_dim": shape_of(state, f"{PROJECTION}proj_in.weight", 2, _WHAT)[1],
        "width": width,
        "token_dim": shape_of(state, f"{PROJECTION}proj_out.weight", 2, _WHAT)[0],
        "tokens": tokens,
        "layers": len(layers),
        "heads": shape_of(state, f"{PROJECTION}layers.0.0.to_q.weight", 2, _WHAT)[0] // HEAD_CHANNELS,
    }


def projection_plan(
    state: Mapping[str, np.ndarray], settings: Mapping[str, Any], allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the projection's parameters are assembled; raises UserError if names or shapes do not fit."""
    table, targets = _TABLES[settings["kind"]], abstract_params(build_image_adapter(settings))
    own: Mapping[str, np.ndarray] = Subset(state, PROJECTION)
    if settings["kind"] == "patches":
        own = _Squeezed(own, f"{PROJECTION}latents")
    return plan(own, targets, lambda path: Source((PROJECTION + rename(path, table),)), what=_WHAT, allowed=allowed)


class _Squeezed(Subset):
    """Tensors of which one has an axis of length 1 before the others, which its parameter does not have."""

    def __init__(self, state: Mapping[str, np.ndarray], squeezed: str) -> None:
        super().__init__(state, "")
        self._squeezed = squeezed

    def __getitem__(self, name: str) -> np.ndarray:
        value = super().__getitem__(name)
        return value[0] if name == self._squeezed else value


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
