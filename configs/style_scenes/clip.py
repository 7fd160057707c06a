"""The small CLIP of the embedded model, for 64x64 images and short captions.

rdm train --config style_scenes/clip --workdir runs/clip
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "clip",
        "name": "style-scenes",
        "steps": 3000,
        "batch_size": 128,
        "eval_every": 500,
        "checkpoint_every": 250,
        "ema_decay": 0.99,
        "shift": 4,
        "initial_scale": 40.0,
        "views": 2,
        "image_weight": 0.3,
        "tokenizer": {"vocab_size": 512},
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "optimizer": {"learning_rate": 1e-3, "weight_decay": 0.02, "b2": 0.98},
        "model": {
            "embed_dim": 128,
            "vision": {
                "kind": "vit",
                "width": 128,
                "layers": 4,
                "heads": 4,
                "patch_size": 8,
                "image_size": 64,
                "pool": "mean",
            },
            "text": {"context_length": 20, "width": 128, "layers": 3, "heads": 4},
        },
    }
