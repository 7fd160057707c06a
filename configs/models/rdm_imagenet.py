"""The ImageNet RDM of April 2023: 256 pixels, the query and 3 neighbors (arXiv 2204.11824).

The same network was also trained with ImageNet itself as its database.
"""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, load_architecture


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "rdm-imagenet",
            "head": "diffusion",
            "denoiser": {
                "kind": "unet",
                "in_channels": 3,
                "out_channels": 3,
                "model_channels": 192,
                "channel_mult": (1, 2, 3, 5),
                "num_res_blocks": 2,
                "attention_resolutions": (8, 4, 2),
                "num_head_channels": 32,
                "context_dim": 512,
            },
            "autoencoder": load_architecture("vq_f4").autoencoder,
            "clip": load_architecture("clip_vit_b32").clip,
            "diffusion": {
                "num_timesteps": 1000,
                "schedule": "scaled_linear",
                "beta_start": 0.0015,
                "beta_end": 0.0195,
                "prediction": "eps",
            },
            "latents": {"scale": 1.0, "quantize": True},
            "conditioning": {"neighbors": 3, "unit_tokens": False, "null": "zeros"},
            "sampling": {
                "condition": "text+neighbors",
                "sampler": "ddim",
                "steps": 100,
                "eta": 0.0,
                "guidance_scale": 2.0,
                "height": 256,
                "width": 256,
            },
        }
    )
