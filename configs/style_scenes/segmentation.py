r"""Semantic synthesis on the procedural set: the label of each pixel as channels beside the noisy latent.

rdm train --config style_scenes/segmentation --workdir runs/segmentation
rdm sample --segmentation labels.png --model runs/segmentation-bundle

With neighbors, which decide the style:

rdm train --config style_scenes/segmentation --workdir runs/segmentation-neighbors \
  --config.data.neighbors=runs/neighbors --config.conditioning.neighbors=3 --config.conditioning.null_probability=0.1 \
  --config.model.attention=transformer --config.sampling.condition=text+neighbors --config.sampling.database=general
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/class").to_dict()
    return {
        **parent,
        "name": "style-scenes-segmentation",
        "input": {"kind": "segmentation"},
        "sampling": {**parent["sampling"], "guidance_scale": 1.0},
        "model": {**parent["model"], "attention": "block"},
    }
