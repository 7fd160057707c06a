"""The VQ first stage that latent diffusion released as vq-f4-noattn: f4, no attention (arXiv 2112.10752)."""

from rdm_jax.training.config import Config, load_architecture


def get_config() -> Config:
    """Returns the configuration."""
    config = load_architecture("vq_f4")
    config.name = "vq-f4-noattn"
    config.autoencoder.mid_attention = False
    return config
