"""The independent classifier of the style and the concept of icons; it shares nothing with the models it evaluates.

rdm train --config icons/classifier --workdir runs/icons/classifier
rdm export runs/icons/classifier --out runs/icons/classifier-bundle

It is trained on the icons of all styles, those included that are held out from the models. Concepts are 500 captions:
the words of the evaluation, and the most common other ones.
"""

from typing import Any

from rdm_jax.data.icons.words import CONCEPTS, UNSEEN_WORDS


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "classifier",
        "name": "icons-classifier",
        "steps": 2500,
        "batch_size": 256,
        "log_every": 100,
        "eval_every": 500,
        "eval_images": 16384,
        "checkpoint_every": 500,
        "ema_decay": 0.998,
        "data": {"source": "icons/64", "split": "train+unseen+held_out", "held_out": "", "size": 64},
        "attributes": ("style", "caption"),
        "most_common": {"caption": 500},
        "always": {"caption": CONCEPTS + UNSEEN_WORDS},
        "held_out_share": 0.12,
        "complete": 0.6,  # one image in four has one of the 500 captions
        # Mirrored, an arrow to the left is an arrow to the right.
        "augment": {"shift": 3, "blur": 0.3, "brightness": 0.1, "noise": 0.05, "mirror": False},
        "optimizer": {"learning_rate": 2e-3, "warmup": 300, "weight_decay": 0.05, "clip_norm": 2.0},
        "model": {"stem": (32, 64), "widths": (64, 128, 256), "blocks": 1, "num_groups": 8, "dropout": 0.2},
    }
