r"""A class-conditional model on the procedural set: the subject as one token, with a null class for guidance.

rdm train --config style_scenes/class --workdir runs/class
rdm sample --class 3 --model runs/class-bundle

With neighbors beside the class:

rdm train --config style_scenes/class --workdir runs/class-neighbors --config.data.neighbors=runs/neighbors \
  --config.conditioning.neighbors=3 --config.conditioning.null_probability=0.1 \
  --config.sampling.condition=text+neighbors --config.sampling.database=general
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "inputs",
        "name": "style-scenes-class",
        "base": "style-scenes",
        "steps": 5000,
        "batch_size": 32,
        "eval_every": 1000,
        "ema_decay": 0.999,
        "data": {"source": "style_scenes", "split": "train", "held_out_rows": 512},
        "optimizer": {"learning_rate": 1e-3},
        "diffusion": {"num_timesteps": 1000, "schedule": "cosine", "prediction": "v"},
        "time_density": "logit_normal",
        "input": {"kind": "class", "attribute": "subject", "null_probability": 0.1},
        "conditioning": {"neighbors": 0, "candidates": 8},
        "sampling": {
            "condition": "text",
            "sampler": "ddim",
            "spacing": "trailing",
            "steps": 16,
            "eta": 0.0,
            "guidance_scale": 2.0,
            "height": 64,
            "width": 64,
        },
        "model": {
            "kind": "unet",
            "model_channels": 32,
            "channel_mult": (1, 2, 3),
            "num_res_blocks": 1,
            "attention_resolutions": (2, 4),
            "num_head_channels": 32,
            "num_groups": 16,
        },
    }
