"""A small translator for the embedded model: from the vector of a text to that of an image (arXiv 2209.10948).

  rdm train --config style_scenes/translator --workdir runs/translator
  rdm export runs/translator --out my-model
  rdm sample "a red boat" --model ./my-model --query-vector translator

A minute on two cores. --config translator has the thesis's size.
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "translator",
        "name": "style-scenes",
        "base": "style-scenes",
        "steps": 2_000,
        "batch_size": 256,
        "eval_every": 500,
        "checkpoint_every": 500,
        "ema_decay": 0.995,
        "optimizer": {"learning_rate": 1e-3, "weight_decay": 1e-4},
        "model": {"width": 128, "hidden": 256, "depth": 4},
    }
