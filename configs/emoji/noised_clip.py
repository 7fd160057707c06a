"""The noised image tower for the emoji model: the settings of configs/noised_clip.py, other data.

rdm train --config configs/emoji/noised_clip.py --workdir runs/emoji/noised_clip
rdm export runs/emoji/noised_clip --out runs/emoji/guided
"""

from pathlib import Path

from rdm_jax.training.config import Config, load_config

PARENT = Path(__file__).parent.parent / "noised_clip.py"


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(str(PARENT)).unlock()
    config.name = "emoji"
    config.base = "runs/emoji/model"
    config.data.source = "data/emoji"
    config.data.split = config.data.held_out = ""
    config.steps = 2_000
    return config
