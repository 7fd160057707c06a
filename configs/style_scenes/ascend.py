"""The model of `style_scenes/uvit` with more blocks before the middle than after (ASCEND, arXiv 2212.13771).

rdm train --config style_scenes/ascend --workdir runs/ascend
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/uvit").to_dict()
    # Four blocks, the middle one and two: as many as in the U-ViT, with one skip less.
    model = {**parent["model"], "decoder_depth": 2}
    return {**parent, "name": "style-scenes-ascend", "model": model}
