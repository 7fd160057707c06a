"""The KL first stage that latent diffusion released as kl-f16: f16, 16 channels (arXiv 2112.10752)."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "kl-f16",
            "autoencoder": {
                "kind": "kl",
                "ch": 128,
                "ch_mult": (1, 1, 2, 2, 4),
                "num_res_blocks": 2,
                "attn_resolutions": (16,),
                "resolution": 256,
                "z_channels": 16,
                "embed_dim": 16,
            },
        }
    )
