"""The independent classifier of subject, color and style that evaluates models; it shares nothing with them.

rdm train --config style_scenes/classifier --workdir runs/classifier
rdm export runs/classifier --out runs/classifier-bundle
"""

from typing import Any

from rdm_jax.data.style_scenes.vocabulary import MONOCHROME


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "classifier",
        "name": "style-scenes-classifier",
        "steps": 1500,
        "batch_size": 64,
        "eval_every": 300,
        "eval_images": 2048,
        "checkpoint_every": 300,
        "ema_decay": 0.99,
        "data": {"split": "judge", "held_out": "test"},
        "attributes": ("subject", "colour", "style"),
        "unseen": {"colour": {"style": MONOCHROME}},
        "augment": {"shift": 4, "blur": 0.3, "brightness": 0.1, "noise": 0.05},
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.02, "clip_norm": 5.0},
        "model": {"stem": (24, 48), "widths": (48, 96, 192), "blocks": 1, "num_groups": 8, "dropout": 0.1},
    }
