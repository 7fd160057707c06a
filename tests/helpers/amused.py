"""A folder of diffusers with a small aMUSEd: the golden networks, and a text encoder of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers import pipeline_folder

TEXT: dict[str, Any] = {"width": 20, "layers": 2, "heads": 2, "vocab_size": 531, "context_length": 77}
POOLED = {"kind": "pooled_clip", **TEXT, "embed_dim": 24, "eos_id": None}
PARTS = {"transformer": "muse/uvit_small", "vqvae": "muse/vqvae_small"}


def text_params() -> dict[str, Any]:
    """Returns the parameters of the text encoder."""
    return pipeline_folder.text_params(POOLED)


def write_folder(golden: Path, folder: Path) -> Path:
    """Writes the folder, and returns it."""
    pipeline_folder.write_pipeline(golden, folder, "AmusedPipeline", PARTS, POOLED)
    pipeline_folder.write_json(folder / "scheduler/scheduler_config.json", {"masking_schedule": "linear"})
    return folder
