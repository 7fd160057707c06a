"""The model of `rdm.py` with a DiT: neighbors by cross-attention, and the U-Net's compute per step.

rdm train --config configs/style_scenes/dit.py --workdir runs/dit
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, load_config


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(str(Path(__file__).with_name("rdm.py"))).unlock()
    # 20.4 GFLOP a training step of 16 images, 5.6 M parameters; the U-Net has 19.9 GFLOP and 6.2 M.
    config.model = ConfigDict(
        {
            "kind": "dit",
            "patch_size": 2,
            "width": 192,
            "depth": 6,
            "heads": 3,
            "context": "cross_attention",
        }
    )
    return config
