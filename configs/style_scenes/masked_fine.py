r"""The second stage of `style_scenes/masked`: 16x16 codes of 2,048, given its 8x8, the caption and three neighbors.

The finer first stage is that of `style_scenes/fine_vq`; the data and the neighbors are those of `style_scenes/masked`.
By `--dry-run` a step takes 0.041 TFLOP, and all of them 123, twice those of the runs of 10 to 20 minutes in
docs/heads.md.

rdm export runs/masked --fine-first-stage runs/fine_vq --out runs/fine_base
rdm train --config style_scenes/masked_fine --workdir runs/masked_fine
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/masked").to_dict()
    return {
        **parent,
        "task": "masked_fine",
        "name": "style-scenes-masked-fine",
        "base": "runs/fine_base",
        "steps": 3000,
        "batch_size": 16,
        "sampling": {**parent["sampling"], "fine_steps": 8},
        "model": {"width": 128, "depth": 4, "coarse_depth": 2, "head_channels": 32, "square": 4},
    }
