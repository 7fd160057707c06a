r"""The retrieval-augmented autoregressive model of `style_scenes`: 8x8 codes of 2,048, caption and three neighbors.

The first stage is that of `style_scenes/vq`; the neighbors are those of `style_scenes/rdm`.

rdm train --config style_scenes/rarm --workdir runs/rarm
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/rdm").to_dict()
    return {
        "task": "autoregressive",
        "name": "style-scenes-rarm",
        "base": "runs/vq_base",
        "steps": 5000,
        "batch_size": 32,
        "eval_every": 500,
        "checkpoint_every": 250,
        "log_every": 50,
        "figures_every": 1000,
        "ema_decay": 0.999,
        "data": parent["data"],
        "optimizer": {"learning_rate": 1.5e-3, "warmup": 200},
        "emphasis": parent["emphasis"],
        "conditioning": parent["conditioning"],
        "sampling": {
            "database": "general",
            "condition": "text+neighbors",
            "guidance_scale": 2.0,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 0.95,
            "height": 64,
            "width": 64,
        },
        "model": {"width": 128, "depth": 6, "head_channels": 32},
    }
