"""CLIP on a folder of captioned emoji in several hands: the settings of configs/style_scenes/clip.py, other data.

rdm train --config configs/emoji/clip.py --workdir runs/emoji/clip
"""

from pathlib import Path

from rdm_jax.training.config import Config, load_config

PARENT = Path(__file__).parent.parent / "style_scenes" / "clip.py"


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(str(PARENT)).unlock()
    config.name = "emoji"
    config.data.source = "data/emoji"
    config.data.split = config.data.held_out = ""
    config.tokenizer.vocab_size = 4096
    config.steps = 600
    return config
