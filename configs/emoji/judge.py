"""The independent judge of the hand of emoji: the settings of configs/style_scenes/judge.py, other data.

rdm train --config configs/emoji/judge.py --workdir runs/emoji/judge
rdm export runs/emoji/judge --out runs/emoji/judges
rdm evaluate guidance --model runs/emoji/model --judges runs/emoji/judges --databases runs/emoji/databases --out DIR

A picture's folder is its hand; what it shows has no class, so that evaluations leave subjects and colours out.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, load_config

PARENT = Path(__file__).parent.parent / "style_scenes" / "judge.py"


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(str(PARENT)).unlock()
    config.name = "emoji-judge"
    config.data.source = "data/emoji"
    config.data.split = config.data.held_out = ""
    config.attributes = ("folder",)
    config.unseen = ConfigDict()
    config.steps = 600
    return config
