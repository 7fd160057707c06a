"""The FFHQ RDM of April 2023: 256 pixels, the query and 3 neighbors (arXiv 2204.11824)."""

from rdm_jax.training.config import Config, load_architecture


def get_config() -> Config:
    """Returns the configuration."""
    config = load_architecture("rdm_imagenet")
    config.name = "rdm-ffhq"
    config.denoiser.model_channels = 224
    config.denoiser.channel_mult = (1, 2, 3, 4)
    return config
