"""The autoencoder on a folder of captioned emoji: the settings of configs/style_scenes/autoencoder.py, other data.

rdm train --config configs/emoji/autoencoder.py --workdir runs/emoji/autoencoder --init-from style-scenes
"""

from pathlib import Path

from rdm_jax.training.config import Config, load_config

PARENT = Path(__file__).parent.parent / "style_scenes" / "autoencoder.py"


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(str(PARENT)).unlock()
    config.name = "emoji"
    config.data.source = "data/emoji"
    config.data.split = config.data.held_out = ""
    config.steps = 800
    return config
