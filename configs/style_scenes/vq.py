"""The VQ first stage (f8, 64 tokens of 2,048 codes) of the autoregressive model of `style_scenes`.

Its outer levels have the shapes of the embedded model's autoencoder, and start from them.

  rdm train --config style_scenes/vq --workdir runs/vq --init-from style-scenes
  rdm export runs/clip runs/vq --out runs/vq_base
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "first_stage",
        "name": "style-scenes-vq",
        "steps": 1500,
        "batch_size": 16,
        "crop": 64,
        "init_partial": True,
        "eval_every": 500,
        "figures_every": 500,
        "checkpoint_every": 100,
        "ema_decay": 0.995,
        "optimizer": {"learning_rate": 1e-3, "warmup": 50},
        "loss": {
            "codebook_weight": 1.0,
            "entropy_weight": 0.1,
            "perceptual": {"kind": "clip", "bundle": "style-scenes", "weight": 0.5},
            "adversarial": {"weight": 0.0},
        },
        "model": {
            "kind": "vq",
            "ch": 16,
            "ch_mult": (1, 3, 6, 6),
            "num_res_blocks": 1,
            "attn_resolutions": (),
            "resolution": 64,
            "z_channels": 8,
            "embed_dim": 4,
            "num_codes": 2048,
            "codebook_bound": 1.0,
            "legacy": False,
            "num_groups": 8,
            "mid_attention": False,
        },
    }
