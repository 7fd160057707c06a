"""The ViT-VQGAN of `style_scenes`: f8, an image is 64 codes of 2,048, each a direction in 8 dimensions.

A distance of CLIP's features keeps the textures of the styles, as at the end of `style_scenes/vq`.

  rdm train --config style_scenes/vit_vq --workdir runs/vit_vq
  rdm export runs/clip runs/vit_vq --out runs/vit_vq_base
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    return {
        "task": "first_stage",
        "name": "style-scenes-vit-vq",
        "steps": 3000,
        "batch_size": 16,
        "crop": 64,
        "eval_every": 500,
        "figures_every": 500,
        "checkpoint_every": 250,
        "ema_decay": 0.998,
        "optimizer": {"learning_rate": 1e-3, "warmup": 200, "b2": 0.99, "weight_decay": 1e-4},
        "loss": {
            "absolute_weight": 1.0,
            "squared_weight": 0.25,
            "codebook_weight": 1.0,
            "entropy_weight": 0.1,
            "perceptual": {"kind": "clip", "bundle": "style-scenes", "weight": 0.1},
            "adversarial": {"weight": 0.0},
        },
        "model": {
            "kind": "vit_vq",
            "resolution": 64,
            "patch_size": 8,
            "width": 192,
            "depth": 3,
            "heads": 6,
            "mlp_width": 768,
            "decoder_width": 192,
            "decoder_depth": 4,
            "decoder_heads": 6,
            "decoder_mlp_width": 768,
            "head_channels": 32,
            "num_codes": 2048,
            "embed_dim": 8,
        },
    }
