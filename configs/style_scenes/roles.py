r"""A model with two roles of neighbors for painterly styles, trained on thousands of random ones.

python -m rdm_jax.data.style_scenes --config random --data-dir data
rdm train --config style_scenes/roles --workdir runs/roles --init-from style-scenes
rdm evaluate style-swap --model runs/roles-bundle --held-out woodblock --held-out watercolour --held-out "stained glass"

Woodblock, watercolour and stained glass are in no image of the set. Its images come in groups of four that show the
same scene in different styles: twins.
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("icons/rdm").to_dict()
    return {
        **parent,
        "name": "style-scenes-roles",
        "base": "style-scenes",
        "data": {
            "source": "style_scenes/random",
            "split": "train",
            "cache_latents": False,
            "held_out_rows": 1024,
            "content": "content",
            "family": "group",
        },
        "sampling": {**parent["sampling"], "database": "general", "content_database": "general"},
    }
