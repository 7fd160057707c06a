"""The style encoder of the icon model, trained to tell styles apart before it is trained with the denoiser.

rdm train --config icons/style_encoder --workdir runs/icons/style-encoder
rdm export style-scenes runs/icons/style-encoder --out runs/icons/start
rdm train --config icons/rdm --workdir runs/icons/rdm --init-from runs/icons/start
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "style_encoder",
        "name": "icons-style-encoder",
        "steps": 4000,
        "batch_size": 128,
        "log_every": 50,
        "eval_every": 500,
        "checkpoint_every": 500,
        "ema_decay": 0.995,
        "balance": 0.5,
        "shift": 2,
        "data": {
            "source": "icons/64",
            "split": "train",
            "held_out_rows": 2048,
            "one_color": "one_color",
            "restyled": 600,
            "restyled_images": 120,
        },
        "optimizer": {"learning_rate": 2e-3, "warmup": 200, "weight_decay": 0.02},
        "style_encoder": {"token_dim": 128, "widths": (32, 64, 128, 192), "color_bins": 4},
    }
