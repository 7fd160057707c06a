"""The finer VQ first stage of `style_scenes`: f4, an image is 256 codes of 2,048, for a second stage of masked codes.

Its levels have the shapes of the embedded model's autoencoder and start from it.

  rdm train --config style_scenes/fine_vq --workdir runs/fine_vq --init-from style-scenes
  rdm export runs/masked --fine-first-stage runs/fine_vq --out runs/fine_base
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/vq").to_dict()
    return {
        **parent,
        "name": "style-scenes-fine-vq",
        "steps": 1200,
        "model": {**parent["model"], "ch_mult": (1, 3, 6)},
    }
