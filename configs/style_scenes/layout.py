"""A layout-to-image model on the procedural set: the boxes of the subject and the floor as tokens.

rdm train --config style_scenes/layout --workdir runs/layout
rdm sample --layout boat.json --model runs/layout-bundle
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/class").to_dict()
    return {
        **parent,
        "name": "style-scenes-layout",
        "input": {"kind": "layout"},
        "sampling": {**parent["sampling"], "guidance_scale": 1.0},
    }
