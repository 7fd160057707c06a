"""The diffusion prior of unCLIP, at the size of its open model Karlo, for a model with a CLIP (arXiv 2204.06125).

  rdm train --config prior --workdir runs/prior --config.base=MODEL --config.data.source=IMAGES
  rdm export runs/prior --out my-model

A billion parameters, for a set of images with captions; the steps, the batch and the optimizer are the paper's.
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "prior",
        "name": "prior",
        "base": "style-scenes",
        "steps": 600_000,
        "batch_size": 4096,
        "eval_every": 10_000,
        "checkpoint_every": 5_000,
        "ema_decay": 0.9999,
        "optimizer": {"learning_rate": 1.1e-4, "weight_decay": 0.06, "b2": 0.96},
        "model": {"width": 2048, "depth": 20, "heads": 32},
    }
