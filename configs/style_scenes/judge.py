"""The independent judge of subject, colour and style, which shares nothing with the model that it judges.

rdm train --config configs/style_scenes/judge.py --workdir runs/judge
rdm export runs/judge --out runs/judge-bundle
"""

from ml_collections import ConfigDict

from rdm_jax.data.style_scenes.vocabulary import MONOCHROME
from rdm_jax.training.config import Config, defaults


def get_config() -> Config:
    """Returns the configuration."""
    config = defaults()
    config.task = "classifier"
    config.name = "style-scenes-judge"
    config.steps = 1500
    config.batch_size = 64
    config.eval_every = 300
    config.eval_pictures = 2048
    config.checkpoint_every = 300
    config.ema_decay = 0.99
    config.data.split = "judge"
    config.data.held_out = "test"
    config.attributes = ("subject", "colour", "style")
    config.unseen = ConfigDict({"colour": {"style": MONOCHROME}})
    config.augment = ConfigDict({"shift": 4, "blur": 0.3, "brightness": 0.1, "noise": 0.05})
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.02
    config.optimizer.clip_norm = 5.0
    config.model = ConfigDict({"stem": (24, 48), "widths": (48, 96, 192), "blocks": 1, "num_groups": 8, "dropout": 0.1})
    return config
