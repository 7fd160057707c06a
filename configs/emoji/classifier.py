"""The independent classifier of the style of emoji: style_scenes/classifier on other data.

rdm train --config emoji/classifier --workdir runs/emoji/classifier
rdm export runs/emoji/classifier --out runs/emoji/classifier-bundle
rdm evaluate guidance --model runs/emoji/model --classifier runs/emoji/classifier-bundle \
  --databases runs/emoji/databases --out DIR

An image's folder is its style. Its content has no class: evaluations leave out subjects and colors.
"""

from rdm_jax.training.config import Config, base_config


def get_config() -> Config:
    """Returns what the run sets."""
    config = base_config("style_scenes/classifier")
    config.unseen = {}
    config.update(
        {
            "name": "emoji-classifier",
            "steps": 600,
            "data": {"source": "data/emoji", "split": "", "held_out": ""},
            "attributes": ("folder",),
        }
    )
    return config
