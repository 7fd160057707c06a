"""The VQ first stage (f8, 64 tokens of 2,048 codes) of the autoregressive model of `style_scenes`.

Its outer levels have the shapes of the embedded model's autoencoder, and start from them.

  rdm train --config configs/style_scenes/vq.py --workdir runs/vq --init-from style-scenes
  rdm export runs/clip runs/vq --out runs/vq_base
"""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, defaults


def get_config() -> Config:
    """Returns the configuration."""
    config = defaults()
    config.task = "first_stage"
    config.name = "style-scenes-vq"
    config.steps = 1500
    config.batch_size = 16
    config.crop = 64
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
            "perceptual": {"kind": "clip", "bundle": "style-scenes", "weight": 0.5},
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
    return config
