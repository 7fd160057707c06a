"""The small KL autoencoder (f4) of the embedded model.

Steps count more than pixels, so it learns on crops of 32 pixels; `:decoder` then goes on with the decoder alone, on
whole pictures and with the features of the CLIP in `base`, while the latents stay what they are.

  rdm train --config configs/style_scenes/autoencoder.py --workdir runs/autoencoder
  rdm export runs/clip runs/autoencoder --out runs/base
  rdm train --config configs/style_scenes/autoencoder.py:decoder --workdir runs/decoder --init-from runs/base
"""

from ml_collections import ConfigDict

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, defaults


def get_config(stage: str = "") -> Config:
    """Returns the configuration of the whole autoencoder, or with "decoder" that of the decoder's own finish.

    Raises:
      UserError: there is no such stage.
    """
    if stage not in ("", "decoder"):
        raise unknown("stage", stage, ["decoder"])
    config = defaults()
    config.task = "autoencoder"
    config.name = "style-scenes"
    config.steps = 6000
    config.batch_size = 32
    config.crop = 32
    config.base = "runs/base"
    config.eval_every = 1000
    config.figures_every = 1000
    config.checkpoint_every = 500
    config.optimizer.learning_rate = 2e-3
    config.loss = ConfigDict(
        {
            "squared_weight": 1.0,
            "edge_weight": 0.5,
            "kl_weight": 1e-3,
            "latent_noise": 0.1,
            "half_scale_weight": 0.5,
            "similarity_weight": 0.0,
            "feature_weight": 0.0,
        }
    )
    config.model = ConfigDict(
        {
            "kind": "kl",
            "ch": 16,
            "ch_mult": (1, 3, 6),
            "num_res_blocks": 1,
            "attn_resolutions": (),
            "resolution": 64,
            "z_channels": 8,
            "embed_dim": 8,
            "num_groups": 8,
            "mid_attention": False,
        }
    )
    if stage == "decoder":
        config.crop = config.data.size
        config.batch_size = 16
        config.steps = 1500
        config.optimizer.learning_rate = 5e-4
        config.loss.latent_noise = 0.4
        config.loss.half_scale_weight = 0.0
        config.loss.squared_weight = 0.0
        config.loss.similarity_weight = 1.5
        config.loss.feature_weight = 0.5
        config.optimizer.frozen = ("autoencoder/(encoder|quant)/.*",)
    return config
