"""DiT-XL/2 on ImageNet at 256 pixels, as released: conditioned on a class, without retrieval (arXiv 2212.09748)."""

from ml_collections import ConfigDict

from rdm_jax.convert import dit
from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    network = {
        "kind": "dit",
        "in_channels": 4,
        "out_channels": 8,
        "latent_size": 32,
        "patch_size": 2,
        "width": 1152,
        "depth": 28,
        "heads": 16,
        "vector_dim": 1001,
        "mlp_ratio": 4.0,
    }
    return ConfigDict({"name": "dit-xl2", "head": "diffusion", "denoiser": network, **dit.conventions(network)})
