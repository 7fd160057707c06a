"""The VQ first stage that latent diffusion released as vq-f4-noattn: f4, no attention (arXiv 2112.10752)."""

from pathlib import Path

from rdm_jax.training.config import Config, load_config

HERE = Path(__file__).parent


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(f"{HERE}/vq_f4.py").unlock()
    config.name = "vq-f4-noattn"
    config.autoencoder.mid_attention = False
    return config
