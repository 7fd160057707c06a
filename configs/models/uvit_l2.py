"""U-ViT-L/2 on ImageNet at 256 pixels, as released: conditioned on a class, without retrieval (arXiv 2209.12152)."""

from ml_collections import ConfigDict

from rdm_jax.convert import uvit
from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    network = {
        "kind": "uvit",
        "in_channels": 4,
        "out_channels": 4,
        "latent_size": 32,
        "patch_size": 2,
        "width": 1024,
        "depth": 20,
        "heads": 16,
        "mlp_ratio": 4.0,
        "time_mlp": False,
        "final_conv": True,
        "first_time": 1,
        "vector_dim": 1001,
    }
    return ConfigDict({"name": "uvit-l2", "head": "diffusion", "denoiser": network, **uvit.conventions(network)})
