r"""The retrieval-augmented diffusion model that ships: 16x16x8 latents, four neighbours, v-prediction.

rdm neighbors --dataset style_scenes --split train --data-dir data --database runs/retrieval --encoder runs/base \
  --k 20 --within style --out runs/neighbors
rdm train --config configs/style_scenes/rdm.py --workdir runs/rdm
"""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, defaults


def get_config() -> Config:
    """Returns the configuration."""
    config = defaults()
    config.task = "diffusion"
    config.name = "style-scenes"
    config.base = "runs/base"
    config.steps = 25000
    config.batch_size = 16
    config.eval_every = 2000
    config.checkpoint_every = 500
    config.log_every = 100
    config.figures_every = 2000
    config.ema_decay = 0.9995
    config.data.neighbors = "runs/neighbors"
    config.data.database = ""  # needed where the neighbours hold no rows
    config.data.compute = ConfigDict({"k": 0, "within": ""})  # k > 0: neighbours that are not there yet are found first
    config.data.held_out_rows = 512
    config.data.cache_latents = True
    config.data.mirror = False
    config.optimizer.learning_rate = 1e-3
    config.diffusion = ConfigDict({"num_timesteps": 1000, "schedule": "cosine", "prediction": "v"})
    config.time_density = "logit_normal"
    config.time_weight = "uniform"
    config.latents = ConfigDict()  # measured on the data
    # Neon's thin lines on black are the hardest to learn.
    config.emphasis = ConfigDict({"style": {"neon": 4}})
    config.conditioning = ConfigDict(
        {
            "neighbors": 4,
            "candidates": 8,
            "unit_tokens": False,
            "null": "zeros",
            "null_probability": 0.1,
            "text_probability": 0.1,
            "text_and_neighbors_probability": 0.4,
            "shuffled_probability": 0.4,
        }
    )
    config.sampling = ConfigDict(
        {
            "database": "general",
            "condition": "text+neighbors",
            "sampler": "ddim",
            "steps": 50,
            "eta": 0.0,
            "guidance_scale": 2.0,
            "height": 64,
            "width": 64,
        }
    )
    config.model = ConfigDict(
        {
            "kind": "unet",
            "model_channels": 48,
            "channel_mult": (1, 2, 3),
            "num_res_blocks": 1,
            "attention_resolutions": (2, 4),
            "num_head_channels": 48,
            "num_groups": 16,
        }
    )
    return config
