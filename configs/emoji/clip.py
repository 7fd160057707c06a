"""CLIP on a folder of captioned emoji in several styles: style_scenes/clip on other data.

rdm train --config emoji/clip --workdir runs/emoji/clip
"""

from rdm_jax.training.config import Config, base_config


def get_config() -> Config:
    """Returns what the run sets."""
    config = base_config("style_scenes/clip")
    config.update({"name": "emoji", "steps": 600, "data": {"source": "data/emoji", "split": "", "held_out": ""}})
    config.tokenizer.vocab_size = 4096
    return config
