"""A folder of diffusers with a small Karlo: the golden networks, and a text encoder of random weights."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.generator import Generator
from tests.helpers import pipeline_folder

TEXT: dict[str, Any] = {"width": 24, "layers": 1, "heads": 2, "vocab_size": 531, "context_length": 9}
PROJECTED = {"kind": "projected_clip", **TEXT, "embed_dim": 24, "eos_id": None}
PARTS = {"prior": "prior_small", "text_proj": "text_proj_small", "decoder": "decoder_small"}
UPSAMPLERS = {"super_res_first": "super_res_first_small", "super_res_last": "super_res_last_small"}


def write_folder(golden: Path, folder: Path) -> Path:
    """Writes the folder, and returns it."""
    places = {part: f"unclip/{name}" for part, name in (PARTS | UPSAMPLERS).items()}
    return pipeline_folder.write_pipeline(golden, folder, "UnCLIPPipeline", places, PROJECTED)


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
