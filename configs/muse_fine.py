"""Muse's second stage at 512 pixels: 64x64 codes, given the base's 16x16, and neighbors (arXiv 2301.00704).

  rdm export runs/muse --fine-first-stage runs/muse/vq_f8 --out runs/muse/fine_base
  rdm train --config muse_fine --workdir gs://BUCKET/runs/muse_fine

`data.source` is a folder of captioned images. The base holds what `muse` has trained and a VQGAN of f8 with 8,192
codes. The optimizer and its rates are those of `muse`. The neighbors are an addition, as there.
"""

from typing import Any

from rdm_jax.training.config import base_config, load_architecture


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent, architecture = base_config("muse").to_dict(), load_architecture("muse_fine").to_dict()
    own = ("width", "depth", "coarse_depth", "head_channels", "gated", "square")
    return {
        **parent,
        "task": "masked_fine",
        "name": "muse-fine",
        "architecture": "muse_fine",
        "base": "runs/muse/fine_base",
        "steps": 1_000_000,
        "data": {**parent["data"], "size": 512},
        "sampling": architecture["sampling"],
        "model": {
            **{key: architecture["fine_transformer"][key] for key in own},
            "dropout": 0.1,
            "dtype": "bfloat16",
            "remat": True,
        },
    }
