r"""The model of `style_scenes/rdm` with Re-Imagen's conditioning (arXiv 2209.14491): its own features of two neighbors.

rdm train --config style_scenes/re_imagen --workdir runs/re_imagen
rdm sample "a red boat" --model runs/re_imagen-bundle --with "interleave(query_share=0.5)"
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/rdm").to_dict()
    return {
        **parent,
        "task": "re_imagen",
        "name": "style-scenes-re-imagen",
        "figures_every": 0,
        "data": {**parent["data"], "database": "runs/retrieval"},
        # The caption and the neighbors are each left out for a tenth of the images, whatever the other.
        "conditioning": {
            "neighbors": 2,
            "candidates": 8,
            "null_probability": 0.01,
            "text_probability": 1 / 11,
            "text_and_neighbors_probability": 9 / 11,
        },
    }
