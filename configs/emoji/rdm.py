"""The diffusion model on a folder of captioned emoji: the settings of configs/style_scenes/rdm.py, other data.

rdm train --config configs/emoji/rdm.py --workdir runs/emoji/rdm --config.data.source=emoji
"""

from pathlib import Path

from rdm_jax.training.config import Config, load_config

PARENT = Path(__file__).parent.parent / "style_scenes" / "rdm.py"


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(str(PARENT)).unlock()
    config.name = "emoji"
    config.data.source = "emoji"
    config.data.split = config.data.held_out = ""
    config.base = "runs/emoji/base"
    config.data.neighbors = "runs/emoji/neighbors"
    config.data.held_out_rows = 128
    config.steps = 4000
    return config
