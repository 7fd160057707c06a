"""The image tower of the icon model, trained towards frozen vectors of captions (LiT, arXiv 2111.07991).

rdm train --config icons/clip --workdir runs/icons/clip --init-from runs/icons/words

`runs/icons/words` is a bundle whose text tower is a word table.
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "clip",
        "name": "icons",
        "steps": 1500,
        "batch_size": 256,
        "eval_every": 500,
        "checkpoint_every": 500,
        "ema_decay": 0.998,
        "shift": 3,
        "mirror": False,
        "initial_scale": 20.0,
        "init_partial": True,  # the bundle of the word table has no image tower of this shape
        "data": {"source": "icons/64", "split": "train", "held_out": ""},
        "tokenizer": {"vocab_size": 512},
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "optimizer": {
            "learning_rate": 1e-3,
            "warmup": 200,
            "weight_decay": 0.05,
            "b2": 0.98,
            "frozen": ("clip/text/.*",),
        },
        "model": {
            "embed_dim": 128,
            "vision": {
                "kind": "vit",
                "width": 128,
                "layers": 3,
                "heads": 2,
                "patch_size": 8,
                "image_size": 64,
                "pool": "mean",
            },
            "text": {"kind": "table", "context_length": 16},
        },
    }
