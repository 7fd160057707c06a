"""The KL first stage that latent diffusion released as kl-f8: f8, 4 channels (arXiv 2112.10752)."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "kl-f8",
            "autoencoder": {
                "kind": "kl",
                "ch": 128,
                "ch_mult": (1, 2, 4, 4),
                "num_res_blocks": 2,
                "attn_resolutions": (),
                "resolution": 256,
                "z_channels": 4,
                "embed_dim": 4,
            },
        }
    )
