"""A folder of diffusers with a small Karlo: the golden networks, and a text encoder of random weights."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rdm_jax.bundle import Bundle
from rdm_jax.convert.clip import hugging_face_source
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.mapping import disassemble
from rdm_jax.core import trees
from rdm_jax.generator import Generator
from rdm_jax.models import abstract_params, build_text_encoder
from tests.helpers import tiny

TEXT: dict[str, Any] = {"width": 24, "layers": 1, "heads": 2, "vocab_size": 531, "context_length": 9}
PROJECTED = {"kind": "projected_clip", **TEXT, "embed_dim": 24, "eos_id": None}
PARTS = {"prior": "prior_small", "text_proj": "text_proj_small", "decoder": "decoder_small"}
UPSAMPLERS = {"super_res_first": "super_res_first_small", "super_res_last": "super_res_last_small"}


def write_folder(golden: Path, folder: Path) -> Path:
    """Writes the folder, and returns it."""
    for part, name in (PARTS | UPSAMPLERS).items():
        shutil.copytree(golden / "heads2/unclip" / name, folder / part)
    shutil.copytree(golden / "heads/sd/sd1_small_diffusers/tokenizer", folder / "tokenizer")
    description = {
        "model_type": "clip_text_model",
        "hidden_size": TEXT["width"],
        "intermediate_size": 4 * TEXT["width"],
        "num_hidden_layers": TEXT["layers"],
        "num_attention_heads": TEXT["heads"],
        "vocab_size": TEXT["vocab_size"],
        "max_position_embeddings": TEXT["context_length"],
        "projection_dim": PROJECTED["embed_dim"],
    }
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder/config.json").write_text(json.dumps(description))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "UnCLIPPipeline"}))
    params = tiny.randomize(trees.unflatten(abstract_params(build_text_encoder(PROJECTED))))
    flat = {f"text/{path}": np.asarray(leaf) for path, leaf in trees.flatten(params).items()}
    tensors = {name: one.read() for name, one in disassemble(flat, hugging_face_source).items()}
    save_file(tensors, folder / "text_encoder/model.safetensors")
    return folder


@functools.cache
def golden_generator(golden: Path, part: str = "") -> Generator:
    """Returns the generator of the converted model, or of its upsampler by the folder of one of its networks."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(golden, Path(name) / "karlo")
        convert(folder / part if part else folder).write(Path(name) / "bundle")
        return Generator.load(Bundle.open(Path(name) / "bundle"))


@functools.cache
def data_of(golden: Path, name: str) -> dict[str, np.ndarray]:
    """Returns what the original program computes, images in NHWC."""
    with np.load(golden / f"heads2/unclip/{name}.npz") as data:
        return {key: np.moveaxis(value, -3, -1) if value.ndim in (4, 5) else value for key, value in data.items()}
