"""Weights and settings of ViT-VQGAN in the layout of enhancing-transformers (github.com/thuanz123)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.convert.compvis_config import read_yaml
from rdm_jax.convert.converted import Conversion
from rdm_jax.convert.mapping import Parameter, Source, Table, built, plan, rename
from rdm_jax.convert.settings import Settings
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_autoencoder
from rdm_jax.models.vit_layers import positions
from rdm_jax.models.vit_vq import ViTVQ

KIND = "ViT-VQGAN"
POSITIONS = ("encoder.en_pos_embedding", "decoder.de_pos_embedding")
NEAR = 1e-4  # how far a stored position may be from the sinusoid
_DEFAULTS = {"use_residual": False, "beta": 0.25, "use_norm": True, "straight_through": True, "num_quantizers": 1}
_QKV = {"query": 0, "key": 1, "value": 2}  # the parts of one stored matrix

_NAMES: Table = (
    (r"^codebook$", "quantizer/embedding/kernel"),
    (r"^quant/", "pre_quant/"),
    (r"/patches/conv/", "/to_patch_embedding/0/"),
    (r"/to_pixels/", "/to_pixel/1/"),
    (r"/norm_out/", "/transformer/norm/"),
    (r"/block_(\d+)/(norm1|attn)/", r"/transformer/layers/\1/0/\2/"),
    (r"/block_(\d+)/(norm2|up|down)/", r"/transformer/layers/\1/1/\2/"),
    (r"/norm[12]/", "/norm/"),
    (r"/attn/out/", "/fn/to_out/"),
    (r"/attn/(query|key|value)/", "/fn/to_qkv/"),
    (r"/up/", "/fn/net/0/"),
    (r"/down/", "/fn/net/2/"),
    (r"/(kernel|scale)$", "/weight"),
    ("/", "."),
)


def is_this(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a ViT-VQGAN alone."""
    return POSITIONS[0] in state


def convert_first_stage(
    source: Path, state: Mapping[str, np.ndarray], file: Path, allowed: frozenset[str]
) -> Conversion:
    """Returns a first stage by its yaml.

    Raises:
      UserError: a setting, a name or a shape does not fit, or the stored positions are not the sinusoidal ones.
    """
    stage = config(read_yaml(file))
    recipes = first_stage_plan(state, built("first stage", build_autoencoder, stage), allowed)
    return Conversion(KIND, {"name": source.stem, "autoencoder": stage}, {"autoencoder": recipes}, (source, file))


def config(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_autoencoder` of a yaml's "model.params".

    Raises:
      UserError: a setting is missing, or has a value that this first stage does not support.
    """
    own = Settings("the yaml", params)
    quantizer = own.section("quantizer", _DEFAULTS)
    quantizer.require({"use_norm": True, "straight_through": True})
    encoder, decoder = (own.section(name, {"dim_head": 64}) for name in ("encoder", "decoder"))
    head_channels = encoder.whole("dim_head")
    decoder.require({"dim_head": head_channels})
    for section in (encoder, decoder):
        if section.whole("heads") == 1 and section.whole("dim") == head_channels:
            raise UserError(f"{section.what} has one head of all channels, which has no output layer; not supported")
    sizes = {"width": "dim", "depth": "depth", "heads": "heads", "mlp_width": "mlp_dim"}
    return {
        "kind": "vit_vq",
        "resolution": own.whole("image_size"),
        "patch_size": own.whole("patch_size"),
        **{name: encoder.whole(key) for name, key in sizes.items()},
        **{f"decoder_{name}": decoder.whole(key) for name, key in sizes.items()},
        "num_codes": quantizer.whole("n_embed"),
        "embed_dim": quantizer.whole("embed_dim"),
        "levels": quantizer.whole("num_quantizers") if quantizer.flag("use_residual") else 1,
        "head_channels": head_channels,
        "beta": quantizer.number("beta"),
    }


def first_stage_plan(
    state: Mapping[str, np.ndarray], module: ViTVQ, allowed: frozenset[str] = frozenset()
) -> dict[str, Parameter]:
    """Returns how the parameters are assembled; those of the training loss ("loss.") are ignored.

    Raises:
      UserError: names are missing, unexpected or mis-shaped, or the stored positions are not the sinusoidal ones.
    """
    side = module.resolution // module.patch_size
    for name, width in zip(POSITIONS, (module.width, module.decoder_width), strict=True):
        expected, stored = positions(side, side, side, width)[None], state.get(name)
        if stored is not None and (stored.shape != expected.shape or not np.allclose(stored, expected, atol=NEAR)):
            raise UserError(f"{name} holds other positions than the sinusoidal ones of {side}x{side} patches")
    return plan(
        state,
        abstract_params(module),
        source_of,
        what="first stage",
        ignored=lambda name: name in POSITIONS or name.startswith("loss."),
        allowed=allowed,
    )


def source_of(path: str) -> Source:
    """Returns the name of a parameter's tensor; queries, keys and values are parts of one."""
    found = re.search(r"/attn/(query|key|value)/", path)
    part = (_QKV[found[1]], len(_QKV)) if found else None
    return Source((rename(path, _NAMES),), as_stored=path == "codebook", part=part)
