"""The VQ first stage that latent diffusion released as vq-f4-noattn: f4, no attention (arXiv 2112.10752)."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "vq-f4-noattn",
            "autoencoder": {
                "kind": "vq",
                "ch": 128,
                "ch_mult": (1, 2, 4),
                "num_res_blocks": 2,
                "attn_resolutions": (),
                "resolution": 256,
                "z_channels": 3,
                "embed_dim": 3,
                "num_codes": 8192,
                "mid_attention": False,
            },
        }
    )
