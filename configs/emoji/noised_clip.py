"""The noised image tower for the emoji model: noised_clip on other data.

rdm train --config emoji/noised_clip --workdir runs/emoji/noised_clip
rdm export runs/emoji/noised_clip --out runs/emoji/guided
"""

from rdm_jax.training.config import Config, base_config


def get_config() -> Config:
    """Returns what the run sets."""
    config = base_config("noised_clip")
    data = {"source": "data/emoji", "split": "", "held_out": ""}
    config.update({"name": "emoji", "base": "runs/emoji/model", "steps": 2_000, "data": data})
    return config
