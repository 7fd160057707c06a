"""The VQ first stage that latent diffusion released as vq-f8: f8, 16,384 codes of 4 channels (arXiv 2112.10752)."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "vq-f8",
            "autoencoder": {
                "kind": "vq",
                "ch": 128,
                "ch_mult": (1, 2, 2, 4),
                "num_res_blocks": 2,
                "attn_resolutions": (32,),
                "resolution": 256,
                "z_channels": 4,
                "embed_dim": 4,
                "num_codes": 16384,
            },
        }
    )
