"""The VQ first stage of `style_scenes`: f8, an image is 64 codes of 2,048.

The outer levels have the shapes of the embedded model's autoencoder and start from it. Crops of 32 pixels come first;
`:finish` goes on with whole images and a distance of CLIP's features, which keeps the textures of the styles.

  rdm train --config configs/style_scenes/vq.py --workdir runs/vq_crops --init-from style-scenes
  rdm export runs/vq_crops --out runs/vq_crops_bundle
  rdm train --config configs/style_scenes/vq.py:finish --workdir runs/vq --init-from runs/vq_crops_bundle
  rdm export runs/clip runs/vq --out runs/vq_base
"""

from ml_collections import ConfigDict

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, defaults


def get_config(stage: str = "") -> Config:
    """Returns the configuration of training on crops, or with "finish" that of its end on whole images.

    Raises:
      UserError: there is no such stage.
    """
    if stage not in ("", "finish"):
        raise unknown("stage", stage, ["finish"])
    config = defaults()
    config.task = "first_stage"
    config.name = "style-scenes-vq"
    config.steps = 2000
    config.batch_size = 16
    config.crop = 32
    config.init_partial = True
    config.eval_every = 500
    config.figures_every = 500
    config.checkpoint_every = 100
    config.ema_decay = 0.995
    config.optimizer.update(learning_rate=1e-3, warmup=50)
    config.loss = ConfigDict(
        {
            "kl_weight": 0.0,
            "codebook_weight": 1.0,
            "entropy_weight": 0.1,
            "perceptual": {"kind": "clip", "bundle": "style-scenes", "weight": 0.0},
            "adversarial": {"weight": 0.0, "start": 0, "layers": 2},
        }
    )
    config.model = ConfigDict(
        {
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
        }
    )
    if stage == "finish":
        config.steps = 700
        config.batch_size = 8
        config.crop = 64
        config.init_partial = False
        config.optimizer.learning_rate = 6e-4
        config.loss.perceptual.weight = 1.0
        config.optimizer.frozen = ("autoencoder/encoder/(conv_in|down_[01]_.*)/.*",)
    return config
