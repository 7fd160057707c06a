"""The CLIP of noisy images that was released with GLIDE, in two files: its image encoder and its text encoder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from rdm_jax.convert.mapping import Parameter, Source, Table, Zeros, built, plan, rename, shape_of
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_noised_encoder

KIND = "noised CLIP"
HEAD_CHANNELS = 64

_NAMES: Table = (
    (r"^(image|text)/", ""),
    (r"^patches/kernel$", "blocks.input.patch_proj"),
    (r"^times$", "blocks.input.w_t"),
    (r"^tokens/embedding$", "blocks.input.w_voc"),
    (r"^positions$", "blocks.input.w_pos"),
    (r"^norm_in/", "blocks.input.ln/"),
    (r"^norm_out/", "blocks.output.ln/"),
    (r"^projection/", "blocks.output.f/"),
    (r"^block_(\d+)/", r"blocks.block_\1/"),
    (r"/norm1/", "/f_attn.ln/"),
    (r"/norm2/", "/f_mlp.ln/"),
    (r"/out/", "/f_attn.f_c/"),
    (r"/up/", "/f_mlp.f_1/"),
    (r"/down/", "/f_mlp.f_2/"),
    (r"ln/scale$", "ln.g"),
    (r"ln/bias$", "ln.b"),
    (r"/kernel$", ".w"),
    (r"/bias$", ".b"),
    ("/", "."),
)


def is_image_encoder(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of the encoder of noisy images."""
    return "blocks.input.w_t" in state


def is_text_encoder(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of the text encoder."""
    return "blocks.input.w_voc" in state


@dataclasses.dataclass(frozen=True)
class Joined:
    """A parameter that is joined of others along its last axis: keys have no bias, and queries and values have one.

    Attributes:
      parts: in order.
    """

    parts: tuple[Parameter, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter."""
        first = self.parts[0].shape
        return (*first[:-1], sum(part.shape[-1] for part in self.parts))

    @property
    def dtype(self) -> np.dtype:
        """Of the parameter."""
        return self.parts[0].dtype

    def read(self) -> np.ndarray:
        """Returns the parameter."""
        return np.concatenate([part.read() for part in self.parts], axis=-1).astype(self.dtype)


def config(
    image: Mapping[str, np.ndarray], text: Mapping[str, np.ndarray], head_channels: int = HEAD_CHANNELS
) -> dict[str, Any]:
    """Returns the configuration for `build_noised_encoder`.

    Args:
      image: the tensors of the image encoder.
      text: those of the text encoder.
      head_channels: of both encoders.

    Raises:
      UserError: a tensor is missing or of another rank, the two belong to different models, or the heads do not fit.
    """
    width, _, patch, _ = shape_of(image, "blocks.input.patch_proj", 4, KIND)
    patches = shape_of(image, "blocks.input.w_pos", 2, KIND)[0] - 1
    side = round(patches**0.5)
    vocabulary, text_width = shape_of(text, "blocks.input.w_voc", 2, KIND)
    dims = [shape_of(state, "blocks.output.f.w", 2, KIND)[0] for state in (image, text)]
    if dims[0] != dims[1]:
        raise UserError(
            f"the image encoder makes vectors of {dims[0]} numbers and the text encoder of {dims[1]}; give the two "
            f"files of one {KIND}"
        )
    if width % head_channels or text_width % head_channels or side * side != patches:
        raise UserError(f"the widths {width} and {text_width} of the {KIND} are no multiples of {head_channels}")
    return {
        "kind": "clip",
        "embed_dim": dims[0],
        "image_size": side * patch,
        "patch_size": patch,
        "timesteps": shape_of(image, "blocks.input.w_t", 2, KIND)[0],
        "image_width": width,
        "image_layers": _layers(image),
        "image_heads": width // head_channels,
        "vocab_size": vocabulary,
        "context_length": shape_of(text, "blocks.input.w_pos", 2, KIND)[0],
        "text_width": text_width,
        "text_layers": _layers(text),
        "text_heads": text_width // head_channels,
    }


def _layers(state: Mapping[str, np.ndarray]) -> int:
    return len({match[1] for name in state if (match := re.match(r"blocks\.block_(\d+)\.", name))})


def recipes(
    image: Mapping[str, np.ndarray],
    text: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    allowed: frozenset[str],
) -> dict[str, Any]:
    """Returns how the parameters are made; raises UserError for names that are missing, unexpected or mis-shaped."""
    targets = abstract_params(built(KIND, build_noised_encoder, settings))
    made: dict[str, Any] = {}
    for tower, state in (("image", image), ("text", text)):
        own = {path: shape for path, shape in targets.items() if path.startswith(f"{tower}/")}
        wanted: dict[str, Any] = {}
        for path, target in own.items():
            wanted |= {part: _third(target) for part in _thirds(path)} if "/qkv/" in path else {path: target}
        found = plan(
            state,
            {path: target for path, target in wanted.items() if not path.endswith("/key/bias")},
            lambda path: Source((rename(_by_role(path), _NAMES),)),
            what=f"{tower} encoder of the {KIND}",
            ignored=lambda name: False,
            allowed=allowed,
        )
        found |= {path: Zeros(target.shape) for path, target in wanted.items() if path.endswith("/key/bias")}
        made |= {
            path: Joined(tuple(found[part] for part in _thirds(path))) if "/qkv/" in path else found[path]
            for path in own
        }
    return made


def _thirds(path: str) -> list[str]:
    return [path.replace("/qkv/", f"/{role}/") for role in ("query", "key", "value")]


def _third(target: Any) -> Any:
    return jax.ShapeDtypeStruct((*target.shape[:-1], target.shape[-1] // 3), target.dtype)


def _by_role(path: str) -> str:
    """Returns a path with the names of the original for queries, keys and values."""
    for role, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        path = path.replace(f"/{role}/", f"/f_attn.f_{letter}/")
    return path
