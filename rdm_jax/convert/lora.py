"""LoRA: differences of low rank that are added to the weights of a Stable Diffusion (https://arxiv.org/abs/2106.09685).

A file holds two matrices for each layer that it changes, `up` and `down`, and perhaps `alpha`: the weight becomes
W + weight · alpha / rank · up · down. Layers have the names of diffusers and transformers; kohya's program joins their
parts by underscores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.convert import diffusers
from rdm_jax.convert.clip import hugging_face_source
from rdm_jax.convert.mapping import Source, number_of, to_parameter
from rdm_jax.convert.weights import read_tensors
from rdm_jax.core import files, trees
from rdm_jax.core.errors import UserError, some

KOHYA = {"denoiser": "lora_unet_", "text_encoder": "lora_te_"}
DIFFUSERS = {"denoiser": "unet.", "text_encoder": "text_encoder."}
_ENDS = (  # up, down
    ("lora_up.weight", "lora_down.weight"),  # kohya
    ("lora_B.weight", "lora_A.weight"),  # diffusers with PEFT
    ("lora.up.weight", "lora.down.weight"),  # diffusers before
    ("lora_linear_layer.up.weight", "lora_linear_layer.down.weight"),
)


def merged(bundle: Bundle, file: Path, weight: float) -> Bundle:
    """Returns a bundle with a LoRA added to its U-Net and its text encoder; its configuration records the LoRA.

    Args:
      bundle: a Stable Diffusion.
      file: a safetensors file with the names of kohya's program or of diffusers.
      weight: of the differences; 1 adds them as they were trained, 0 leaves the model as it is.

    Raises:
      UserError: the file cannot be read, holds no LoRA, or one of another model.
    """
    if not bundle.has("text_encoder"):
        raise UserError(f"a LoRA is added to a Stable Diffusion, and model {bundle.name!r} is none; leave it out")
    state, unused = read_tensors(file), set(read_tensors(file))
    params = dict(bundle.params)
    for part, source_of in _sources(bundle).items():
        flat = trees.flatten(params[part])
        for path, leaf in flat.items():
            delta = _difference(state, part, source_of(path), path, leaf.ndim, unused)
            if delta is not None:
                flat[path] = _added(leaf, weight * delta, path, file)
        params[part] = trees.unflatten(flat)
    if unused:
        raise UserError(
            f"{file} is no LoRA of this model, as of another version of Stable Diffusion: {len(unused)} of its "
            f"{len(state)} tensors belong to none of its layers: {some(sorted(unused))}"
        )
    record = {"file": str(file), "sha256": files.sha256(file), "weight": weight}
    config = {**bundle.config, "loras": [*bundle.config.get("loras", []), record]}
    return Bundle(config, params, bundle.tokenizer, bundle.path)


def _sources(bundle: Bundle) -> dict[str, Callable[[str], Source]]:
    """Returns {part: the function from a parameter's path to its foreign names}."""
    return {
        "denoiser": diffusers.unet_source(bundle.denoiser),
        "text_encoder": lambda path: hugging_face_source(f"text/{path}"),
    }


def _added(leaf: np.ndarray, delta: np.ndarray, path: str, file: Path) -> np.ndarray:
    if delta.shape != leaf.shape:
        raise UserError(
            f"{file} is no LoRA of this model: it changes {path} of shape {leaf.shape} by one of shape {delta.shape}"
        )
    return np.asarray(np.asarray(leaf, np.float32) + delta, leaf.dtype)


def _difference(
    state: Mapping[str, np.ndarray], part: str, source: Source, path: str, ndim: int, unused: set[str]
) -> np.ndarray | None:
    """Returns what is added to a parameter, which may have several foreign tensors; None if nothing is."""
    layers = [name.removesuffix(".weight") for name in source.names if name.endswith(".weight")]
    found = [_layer(state, part, layer, unused) for layer in layers]
    known = next((one for one in found if one is not None), None)
    if known is None:
        return None
    parts = [to_parameter(np.zeros_like(known) if one is None else one, path, ndim, source) for one in found]
    return np.concatenate(parts, axis=-1)


def _layer(state: Mapping[str, np.ndarray], part: str, layer: str, unused: set[str]) -> np.ndarray | None:
    """Returns alpha / rank · up · down of a layer; None if the file does not change it."""
    for name in (KOHYA[part] + layer.replace(".", "_"), DIFFUSERS[part] + layer):
        for ends in _ENDS:
            up_name, down_name = (f"{name}.{end}" for end in ends)
            if up_name in state and down_name in state:
                up, down = (np.asarray(state[one], np.float32) for one in (up_name, down_name))
                unused -= {up_name, down_name, f"{name}.alpha"}
                alpha = number_of(state, f"{name}.alpha") if f"{name}.alpha" in state else float(len(down))
                product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
                return alpha / len(down) * product.reshape(len(up), *down.shape[1:])
    return None


def parse(text: str) -> tuple[str, float]:
    """Returns the file and the weight of FILE or FILE:WEIGHT; raises UserError for a weight that is no number."""
    name, colon, written = text.rpartition(":")
    if not colon or "/" in written or "\\" in written or written.endswith(".safetensors"):
        return text, 1.0
    try:
        weight = float(written)
    except ValueError as error:
        raise UserError(f"LoRA {text!r}: {written!r} is no weight; write FILE or FILE:0.8") from error
    if not np.isfinite(weight):
        raise UserError(f"LoRA {text!r}: the weight is not finite; write FILE or FILE:0.8")
    return name, weight


def merge_all(bundle: Bundle, loras: Any) -> Bundle:
    """Returns a bundle with LoRAs, each "FILE" or "FILE:WEIGHT", added in order; raises UserError as `merged` does."""
    for name, weight in map(parse, loras):
        bundle = merged(bundle, Path(name), weight)
    return bundle
