"""The model of `style_scenes/rdm` with a U-ViT: neighbors as tokens of the sequence, and the U-Net's compute per step.

rdm train --config style_scenes/uvit --workdir runs/uvit
"""

from typing import Any

from rdm_jax.training.config import base_config


def get_config() -> dict[str, Any]:
    """Returns what the run sets."""
    parent = base_config("style_scenes/rdm").to_dict()
    # 20.0 GFLOP a training step of 16 images, 2.8 M parameters; the U-Net has 19.9 GFLOP and 6.2 M.
    model = {"kind": "uvit", "patch_size": 2, "width": 176, "depth": 6, "heads": 4, "context": "tokens"}
    return {**parent, "name": "style-scenes-uvit", "model": model}
