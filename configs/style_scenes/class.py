r"""A class-conditional model on the procedural set: the subject as one token, with a null class for guidance.

rdm train --config style_scenes/class --workdir runs/class
rdm sample --class 3 --model runs/class-bundle

With neighbors beside the class:

rdm train --config style_scenes/class --workdir runs/class-neighbors --config.data.neighbors=runs/neighbors \
  --config.conditioning.neighbors=3 --config.conditioning.null_probability=0.1 \
  --config.sampling.condition=text+neighbors --config.sampling.database=general
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/rdm").to_dict()
    del parent["sampling"]["database"]
    return {
        "task": "inputs",
        "name": "style-scenes-class",
        "base": "style-scenes",
        "steps": 5000,
        "batch_size": 32,
        "eval_every": 1000,
        "ema_decay": 0.999,
        "data": {"source": "style_scenes", "split": "train", "held_out_rows": 512},
        "optimizer": parent["optimizer"],
        "diffusion": parent["diffusion"],
        "time_density": parent["time_density"],
        "input": {"kind": "class", "attribute": "subject", "null_probability": 0.1},
        "conditioning": {"neighbors": 0, "candidates": 8},
        "sampling": {**parent["sampling"], "condition": "text"},
        "model": {**parent["model"], "model_channels": 32, "num_head_channels": 32},
    }
