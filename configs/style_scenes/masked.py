r"""The retrieval-augmented model of masked codes of `style_scenes`: 8x8 codes of 2,048, caption and three neighbors.

The first stage, the data, the neighbors and the transformer's size are those of `style_scenes/rarm`.

rdm train --config style_scenes/masked --workdir runs/masked
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/rarm").to_dict()
    return {
        **parent,
        "task": "masked",
        "name": "style-scenes-masked",
        "label_smoothing": 0.1,
        "sampling": {
            "database": "general",
            "condition": "text+neighbors",
            "steps": 12,
            "guidance_scale": 2.0,
            "temperature": 1.0,
            "choice_temperature": 4.5,
            "height": 64,
            "width": 64,
        },
    }
