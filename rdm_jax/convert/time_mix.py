"""The second stage of enhancing-transformers (github.com/thuanz123), of classes, without its first stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.convert.compvis_config import read_yaml
from rdm_jax.convert.converted import Conversion
from rdm_jax.convert.mapping import Parameter, Source, Subset, Table, built, plan, rename, shape_of
from rdm_jax.convert.settings import Settings
from rdm_jax.core.errors import UserError, some
from rdm_jax.core.nulls import NO_NULL
from rdm_jax.models import abstract_params, build_input_encoder, build_transformer

KIND = "enhancing-transformers' second stage"
PREFIX = "transformer."
CLASSES, CODES = f"{PREFIX}tok_emb_cond.weight", f"{PREFIX}tok_emb_code.weight"
PLACES = ("params", "model.params.transformer.params")  # of its arguments in a yaml of its own, or of a whole model
PATCH = 8  # of the first stages of the release

_NAMES: Table = (
    (r"^embed/embedding$", "tok_emb_code/scale"),
    (r"^positions$", "pos_emb_code"),
    (r"^condition_position$", "pos_emb_cond"),
    (r"^norm_out/", "layer_norm/"),
    (r"^logits/", "head/"),
    (r"^block_(\d+)/", r"blocks/\1/"),
    (r"/norm([12])/", r"/ln\1/"),
    (r"/mix$", "/attn/time_mix"),
    (r"/(query|key|value)/", r"/attn/\1/"),
    (r"/out/", "/attn/proj/"),
    (r"/up/", "/mlp/p0/"),
    (r"/down/", "/mlp/p1/"),
    (r"/(kernel|scale)$", "/weight"),
    ("/", "."),
)


def is_this(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a second stage."""
    return CLASSES in state and CODES in state


def convert_transformer(
    source: Path, state: Mapping[str, np.ndarray], file: Path, allowed: frozenset[str]
) -> Conversion:
    """Returns the transformer and the embedding of its classes; a first stage is joined by `rdm export`.

    Raises:
      UserError: a setting, a name or a shape does not fit.
    """
    if others := sorted(name for name in state if not name.startswith(PREFIX) and name not in allowed):
        raise UserError(f"the checkpoint holds {len(others)} unexpected names: {some(others)}")
    settings = config(state, Settings(file.name, read_yaml(file, *PLACES), {"cond_num_tokens": 1}))
    side = math.isqrt(settings["num_tokens"])
    classes, width = shape_of(state, CLASSES, 2, KIND)
    encoder = {"kind": "class", "num_classes": classes, "width": width}
    parts: dict[str, dict[str, Parameter] | Path] = {
        "transformer": transformer_plan(state, settings, allowed),
        "input_encoder": plan(
            Subset(state, CLASSES),
            abstract_params(built("class embedding", build_input_encoder, encoder)),
            lambda _: Source((CLASSES,), as_stored=True),
            what="class embedding",
        ),
    }
    named = {
        "name": source.stem,
        "head": "autoregressive",
        "transformer": settings,
        "input_encoder": encoder,
        "conditioning": {"neighbors": 0, "null": NO_NULL, "input": "class"},
        "sampling": {
            "condition": "text",
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "guidance_scale": 1.0,
            "height": side * PATCH,
            "width": side * PATCH,
        },
    }
    return Conversion(KIND, named, parts, (source, file))


def config(state: Mapping[str, np.ndarray], arguments: Settings) -> dict[str, Any]:
    """Returns the configuration for `build_transformer`: sizes from the tensors, the heads from the yaml.

    Raises:
      UserError: a tensor or a setting is missing, or they disagree, or the condition has several tokens.
    """
    codes, width = shape_of(state, CODES, 2, KIND)
    _, tokens, _ = shape_of(state, f"{PREFIX}pos_emb_code", 3, KIND)
    blocks = {name.split(".")[2] for name in state if name.startswith(f"{PREFIX}blocks.")}
    found = {"vocab_img_size": codes, "embed_dim": width, "img_num_tokens": tokens, "n_layers": len(blocks)}
    for key, value in found.items():
        if arguments.has(key) and arguments.whole(key) != value:
            raise UserError(
                f"{arguments.what}: {key} is {arguments.whole(key)}, and the checkpoint has {value}; give the yaml "
                "that came with it"
            )
    if arguments.whole("cond_num_tokens") != 1:
        raise UserError(
            f"{arguments.what}: cond_num_tokens is {arguments.whole('cond_num_tokens')}, and only models of a class, "
            "with 1, are supported"
        )
    sizes = {"num_codes": codes, "num_tokens": tokens, "width": width, "depth": len(blocks)}
    return {"kind": "time_mix", **sizes, "heads": arguments.whole("n_heads")}


def transformer_plan(
    state: Mapping[str, np.ndarray], settings: Mapping[str, Any], allowed: frozenset[str] = frozenset()
) -> dict[str, Parameter]:
    """Returns how the parameters are assembled; raises UserError with all names and shapes that do not fit."""
    return plan(
        Subset(state, PREFIX),
        abstract_params(built("transformer", build_transformer, settings)),
        source_of,
        what="transformer",
        ignored=lambda name: name == CLASSES,
        allowed=allowed,
    )


def source_of(path: str) -> Source:
    """Returns the name of a parameter's tensor."""
    tables = ("positions", "condition_position")
    return Source(
        (PREFIX + rename(path, _NAMES),),
        as_stored=path == "embed/embedding",
        squeezed=path in tables,
        flattened=path.endswith("/mix"),
    )
