"""A folder of diffusers: golden networks, and a text encoder of CLIP with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rdm_jax.convert.clip import hugging_face_source
from rdm_jax.convert.mapping import disassemble
from rdm_jax.core import trees
from rdm_jax.models import abstract_params, build_text_encoder
from tests.helpers import tiny


def text_params(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a text encoder by its configuration."""
    return tiny.randomize(trees.unflatten(abstract_params(build_text_encoder(encoder))))


def write_pipeline(golden: Path, folder: Path, name: str, parts: Mapping[str, str], encoder: Mapping[str, Any]) -> Path:
    """Writes the folder, and returns it.

    Args:
      golden: of the golden outputs.
      folder: does not exist yet.
      name: of the pipeline's class.
      parts: {sub-folder: the golden folder below heads2}.
      encoder: the text encoder's configuration.
    """
    for part, place in parts.items():
        shutil.copytree(golden / "heads2" / place, folder / part)
    shutil.copytree(golden / "heads/sd/sd1_small_diffusers/tokenizer", folder / "tokenizer")
    description = {
        "model_type": "clip_text_model",
        "hidden_size": encoder["width"],
        "intermediate_size": 4 * encoder["width"],
        "num_hidden_layers": encoder["layers"],
        "num_attention_heads": encoder["heads"],
        "vocab_size": encoder["vocab_size"],
        "max_position_embeddings": encoder["context_length"],
        "projection_dim": encoder["embed_dim"],
    }
    write_json(folder / "text_encoder/config.json", description)
    write_json(folder / "model_index.json", {"_class_name": name})
    flat = {f"text/{path}": np.asarray(leaf) for path, leaf in trees.flatten(text_params(encoder)).items()}
    tensors = {name: one.read() for name, one in disassemble(flat, hugging_face_source).items()}
    save_file(tensors, folder / "text_encoder/model.safetensors")
    return folder


def write_json(path: Path, content: Any) -> None:
    """Writes a file, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
