"""The diffusion model on a folder of captioned emoji in several hands: the settings of configs/style_scenes/rdm.py, other data.

  rdm train --config configs/emoji/rdm.py --workdir runs/emoji/rdm --config.data.source=emoji
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.training.config import load_config

PARENT = Path(__file__).parent.parent / "style_scenes" / "rdm.py"


def get_config() -> ConfigDict:
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
