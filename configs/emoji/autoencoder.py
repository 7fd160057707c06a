"""The autoencoder on a folder of captioned emoji: style_scenes/autoencoder on other data.

rdm train --config emoji/autoencoder --workdir runs/emoji/autoencoder --init-from style-scenes
"""

from rdm_jax.training.config import Config, base_config


def get_config() -> Config:
    """Returns what the run sets."""
    config = base_config("style_scenes/autoencoder")
    config.update({"name": "emoji", "steps": 800, "data": {"source": "data/emoji", "split": "", "held_out": ""}})
    return config
