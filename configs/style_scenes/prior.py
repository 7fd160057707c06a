"""A small diffusion prior for the embedded model: vectors of images, sampled for a text (arXiv 2204.06125).

  rdm train --config style_scenes/prior --workdir runs/prior
  rdm export runs/prior --out my-model
  rdm sample "a red boat" --model ./my-model --query-vector prior

Minutes on two cores. --config prior has the paper's size.
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "prior",
        "name": "style-scenes",
        "base": "style-scenes",
        "steps": 1_200,
        "batch_size": 128,
        "eval_every": 400,
        "checkpoint_every": 400,
        "ema_decay": 0.995,
        "optimizer": {"learning_rate": 1e-3, "weight_decay": 0.01, "b2": 0.96},
        "model": {"width": 128, "depth": 3, "heads": 4},
    }
