"""The noised image tower of semantic diffusion guidance, for a finished model (arXiv 2112.05744, section 3.4).

  rdm train --config configs/noised_clip.py --workdir runs/noised_clip
  rdm export runs/noised_clip --out my-model

For the embedded model, on its procedural pictures: minutes on a GPU, an hour on two cores. For another one give
--config.base and --config.data. The paper tunes a ResNet-50x16 on pixels with AdamW, 1e-4, 32 pictures a GPU, up to
500,000 steps; this one reads latents, as the models here draw them.
"""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, defaults


def get_config() -> Config:
    """Returns the configuration."""
    config = defaults()
    config.task = "noised_clip"
    config.name = "style-scenes"
    config.base = "style-scenes"
    config.steps = 8_000
    config.batch_size = 128
    config.eval_every = config.checkpoint_every = 1_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.01
    config.data.update(cache_latents=True, mirror=False)
    config.model = ConfigDict(
        {
            "model_channels": 32,
            "channel_mult": (1, 2, 4),
            "num_res_blocks": 1,
            "attention_resolutions": (4,),
            "num_groups": 8,
            "num_head_channels": 32,
        }
    )
    return config
