"""The diffusion model on a folder of captioned emoji: the settings of configs/style_scenes/rdm.py, other data.

rdm train --config configs/emoji/rdm.py --workdir runs/emoji/rdm --init-from style-scenes
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, load_config

PARENT = Path(__file__).parent.parent / "style_scenes" / "rdm.py"


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(str(PARENT)).unlock()
    config.name = "emoji"
    config.data.source = "data/emoji"
    config.data.split = config.data.held_out = ""
    config.base = "runs/emoji/base"
    config.data.neighbors = "runs/emoji/neighbors"
    config.data.database = ""  # needed where the neighbours hold no rows
    config.data.held_out_rows = 128
    config.sampling.database = ""
    config.emphasis = ConfigDict()
    config.steps = 2000
    return config
