"""The FFHQ RDM of April 2023: 256 pixels, the query and 3 neighbours (arXiv 2204.11824)."""

from pathlib import Path

from rdm_jax.training.config import Config, load_config

HERE = Path(__file__).parent


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(f"{HERE}/rdm_imagenet.py").unlock()
    config.name = "rdm-ffhq"
    config.denoiser.model_channels = 224
    config.denoiser.channel_mult = (1, 2, 3, 4)
    return config
