"""The VQ first stage of `style_scenes`: f8, an image is 64 codes of 2,048.

The outer levels have the shapes of the embedded model's autoencoder and start from it. Crops of 32 pixels come first;
`:finish` continues with whole images and a distance of CLIP's features, which keeps the textures of the styles.

  rdm train --config style_scenes/vq --workdir runs/vq_crops --init-from style-scenes
  rdm export runs/vq_crops --out runs/vq_crops_bundle
  rdm train --config style_scenes/vq:finish --workdir runs/vq --init-from runs/vq_crops_bundle
  rdm export runs/clip runs/vq --out runs/vq_base
"""

from typing import Any

from rdm_jax.core.errors import unknown


def get_config(stage: str = "") -> dict[str, Any]:
    """Returns what a run sets: of training on crops, or with "finish" of its end on whole images.

    Raises:
      UserError: there is no such stage.
    """
    if stage not in ("", "finish"):
        raise unknown("stage", stage, ["finish"])
    finish = stage == "finish"
    return {
        "task": "first_stage",
        "name": "style-scenes-vq",
        "steps": 700 if finish else 2000,
        "batch_size": 8 if finish else 16,
        "crop": 64 if finish else 32,
        "init_partial": not finish,
        "eval_every": 500,
        "figures_every": 500,
        "checkpoint_every": 100,
        "ema_decay": 0.995,
        "optimizer": {
            "learning_rate": 6e-4 if finish else 1e-3,
            "warmup": 50,
            "frozen": ("autoencoder/encoder/(conv_in|down_[01]_.*)/.*",) if finish else (),
        },
        "loss": {
            "codebook_weight": 1.0,
            "entropy_weight": 0.1,
            "perceptual": {"kind": "clip", "bundle": "style-scenes", "weight": 1.0 if finish else 0.0},
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
