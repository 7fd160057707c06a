"""The KL first stage that latent diffusion released as kl-f32: f32, 64 channels (arXiv 2112.10752)."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "kl-f32",
            "autoencoder": {
                "kind": "kl",
                "ch": 128,
                "ch_mult": (1, 1, 2, 2, 4, 4),
                "num_res_blocks": 2,
                "attn_resolutions": (16, 8),
                "resolution": 256,
                "z_channels": 64,
                "embed_dim": 64,
            },
        }
    )
