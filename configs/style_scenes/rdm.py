r"""The retrieval-augmented diffusion model that ships: 16x16x8 latents, caption and three neighbors, v-prediction.

rdm neighbors --dataset style_scenes --split train --data-dir data --database runs/retrieval --encoder runs/base \
  --k 20 --within style --out runs/neighbors
rdm train --config style_scenes/rdm --workdir runs/rdm
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "diffusion",
        "name": "style-scenes",
        "base": "runs/base",
        "steps": 25000,
        "batch_size": 16,
        "eval_every": 2000,
        "checkpoint_every": 500,
        "log_every": 100,
        "figures_every": 2000,
        "ema_decay": 0.9995,
        "data": {"neighbors": "runs/neighbors", "held_out_rows": 512},
        "optimizer": {"learning_rate": 1e-3},
        "diffusion": {"num_timesteps": 1000, "schedule": "cosine", "prediction": "v"},
        "time_density": "logit_normal",
        "emphasis": {"style": {"neon": 4}},  # its thin lines on black are the hardest to learn
        "conditioning": {
            "neighbors": 3,
            "candidates": 8,
            "null_probability": 0.1,
            "text_probability": 0.1,
            "text_and_neighbors_probability": 0.4,
            "shuffled_probability": 0.4,
        },
        "sampling": {
            "database": "general",
            "condition": "text+neighbors",
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
            "model_channels": 48,
            "channel_mult": (1, 2, 3),
            "num_res_blocks": 1,
            "attention_resolutions": (2, 4),
            "num_head_channels": 48,
            "num_groups": 16,
        },
    }
