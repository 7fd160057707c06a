"""The VQ first stage that latent diffusion released as vq-f8-n256: f8, 256 codes of 4 channels (arXiv 2112.10752)."""

from rdm_jax.training.config import Config, load_architecture


def get_config() -> Config:
    """Returns the configuration."""
    config = load_architecture("vq_f8")
    config.name = "vq-f8-n256"
    config.autoencoder.num_codes = 256
    return config
