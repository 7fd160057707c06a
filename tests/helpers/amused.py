"""A folder of diffusers with a small aMUSEd: the golden networks, and a text encoder of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rdm_jax.convert.clip import hugging_face_source
from rdm_jax.convert.mapping import disassemble
from rdm_jax.core import trees
from rdm_jax.models import abstract_params, build_text_encoder
from tests.helpers import tiny

TEXT: dict[str, Any] = {"width": 20, "layers": 2, "heads": 2, "vocab_size": 531, "context_length": 77}
POOLED = {"kind": "pooled_clip", **TEXT, "embed_dim": 24, "eos_id": None}


def text_params() -> dict[str, Any]:
    """Returns the parameters of the text encoder."""
    return tiny.randomize(trees.unflatten(abstract_params(build_text_encoder(POOLED))))


def write_folder(golden: Path, folder: Path) -> Path:
    """Writes the folder, and returns it."""
    for part, name in (("transformer", "uvit_small"), ("vqvae", "vqvae_small")):
        shutil.copytree(golden / "heads2/muse" / name, folder / part)
    shutil.copytree(golden / "heads/sd/sd1_small_diffusers/tokenizer", folder / "tokenizer")
    description = {
        "model_type": "clip_text_model",
        "hidden_size": TEXT["width"],
        "intermediate_size": 4 * TEXT["width"],
        "num_hidden_layers": TEXT["layers"],
        "num_attention_heads": TEXT["heads"],
        "vocab_size": TEXT["vocab_size"],
        "projection_dim": POOLED["embed_dim"],
    }
    _write(folder / "text_encoder/config.json", description)
    _write(folder / "scheduler/scheduler_config.json", {"masking_schedule": "linear"})
    _write(folder / "model_index.json", {"_class_name": "AmusedPipeline"})
    flat = {f"text/{path}": np.asarray(leaf) for path, leaf in trees.flatten(text_params()).items()}
    tensors = {name: one.read() for name, one in disassemble(flat, hugging_face_source).items()}
    save_file(tensors, folder / "text_encoder/model.safetensors")
    return folder


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
