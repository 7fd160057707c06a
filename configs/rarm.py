"""RARM on subsets of ImageNet, 256 pixels, 4 neighbors (arXiv 2204.11824; released in April 2023).

  rdm train --config rarm:dogs --workdir gs://BUCKET/runs/rarm_dogs
  rdm train --config rarm:mammals --workdir gs://BUCKET/runs/rarm_mammals
  rdm train --config rarm:animals --workdir gs://BUCKET/runs/rarm_animals

`data.source` is a folder with the subset's images: classes 151 to 280 (dogs), 147 to 388 (mammals) or 0 to 397
(animals) in ImageNet's order. The base holds CLIP ViT-B/32 and the converted VQGAN of f16 with 16,384 codes. 231 M
parameters in the transformer. Published FID: dogs 45.27, mammals 49.92, animals 49.03. The release states a batch of 50
and no number of steps: the steps here are ours.
"""

from typing import Any

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import load_architecture

BATCH = 50
# The learning rate, which the release scales by the batch but for dogs, and the parts that a batch is split into.
SUBSETS = {"dogs": (5e-4, 2), "mammals": (5e-6 * BATCH, 1), "animals": (5e-6 * BATCH, 1)}


def get_config(subset: str = "dogs") -> dict[str, Any]:
    """Returns what a run on one of `SUBSETS` sets.

    Raises:
      UserError: there is no such subset.
    """
    if subset not in SUBSETS:
        raise unknown("subset", subset, SUBSETS)
    learning_rate, accumulate = SUBSETS[subset]
    architecture = load_architecture("rarm_imagenet").to_dict()
    network = architecture["transformer"]
    return {
        "task": "autoregressive",
        "name": f"rarm-{subset}",
        "architecture": "rarm_imagenet",
        "base": "runs/rarm/base",
        "steps": 100_000,
        "batch_size": BATCH * accumulate,
        "accumulate": accumulate,
        "log_every": 100,
        "eval_every": 1_000,
        "checkpoint_every": 1_000,
        "figures_every": 5_000,
        "ema_decay": 0.0,  # the release has no average: this one is the parameters themselves
        "threads": 16,
        "optimizer": {
            "learning_rate": learning_rate,
            "warmup": 0,
            "decay": "constant",
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 1e-2,
            "clip_norm": 0.0,
        },
        "data": {
            "source": f"data/imagenet_{subset}",
            "split": "",
            "data_dir": "",
            "size": 256,
            "cache": False,
            "held_out_rows": 1_000,
            "neighbors": f"runs/rarm-{subset}/neighbors",
        },
        "conditioning": {"neighbors": 4, "candidates": 4},
        "sampling": architecture["sampling"],
        "model": {**{key: network[key] for key in ("width", "depth", "head_channels")}, "dtype": "bfloat16"},
    }
