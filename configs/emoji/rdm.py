"""The diffusion model on a folder of captioned emoji: style_scenes/rdm on other data.

rdm train --config emoji/rdm --workdir runs/emoji/rdm --init-from style-scenes
"""

from rdm_jax.training.config import Config, base_config


def get_config() -> Config:
    """Returns what the run sets."""
    config = base_config("style_scenes/rdm")
    config.emphasis = {}
    config.update(
        {
            "name": "emoji",
            "base": "runs/emoji/base",
            "steps": 2000,
            "data": {"source": "data/emoji", "split": "", "neighbors": "runs/emoji/neighbors", "held_out_rows": 128},
            "sampling": {"database": ""},
        }
    )
    return config
