"""The translator of the thesis, for a model with a CLIP ViT-B/32 (arXiv 2209.10948).

  rdm train --config translator --workdir runs/translator --config.base=MODEL --config.data.source=IMAGES
  rdm export runs/translator --out my-model

32 million parameters, for any set of images with captions. The thesis trains six epochs of a batch of 256; the number
of steps here is that for 590,000 pairs.
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "translator",
        "name": "translator",
        "base": "style-scenes",
        "steps": 13_800,
        "batch_size": 256,
        "eval_every": 1_000,
        "checkpoint_every": 1_000,
        "optimizer": {"learning_rate": 1e-3, "weight_decay": 1e-4},
        "model": {"width": 512, "hidden": 1024, "depth": 30},
    }
