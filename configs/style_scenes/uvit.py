"""The model of `rdm.py` with a U-ViT: neighbors as tokens of the sequence, and the U-Net's compute per step.

rdm train --config configs/style_scenes/uvit.py --workdir runs/uvit
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, load_config


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(str(Path(__file__).with_name("rdm.py"))).unlock()
    # 20.0 GFLOP a training step of 16 images, 19.9 of the U-Net, which has 6.2 M parameters; this one has 2.8 M.
    config.model = ConfigDict(
        {
            "kind": "uvit",
            "patch_size": 2,
            "width": 176,
            "depth": 6,
            "heads": 4,
            "context": "tokens",
        }
    )
    return config
