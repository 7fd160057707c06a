"""The text-guided RDM of July 2022: 768 pixels, the text's vector and 10 neighbors (arXiv 2207.13038)."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, load_architecture


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "rdm-768",
            "head": "diffusion",
            "denoiser": {
                "kind": "unet",
                "in_channels": 16,
                "out_channels": 16,
                "model_channels": 448,
                "channel_mult": (1, 2, 3, 4),
                "num_res_blocks": 2,
                "attention_resolutions": (4, 2, 1),
                "num_head_channels": 32,
                "context_dim": 768,
            },
            "autoencoder": load_architecture("kl_f16").autoencoder,
            "clip": load_architecture("clip_vit_l14").clip,
            "diffusion": {
                "num_timesteps": 1000,
                "schedule": "scaled_linear",
                "beta_start": 0.0015,
                "beta_end": 0.015,
                "prediction": "eps",
            },
            "latents": {"scale": 0.22765929},
            "conditioning": {"neighbors": 10, "unit_tokens": True, "null": "zeros"},
            "sampling": {
                "condition": "text+neighbors",
                "sampler": "ddim",
                "steps": 50,
                "eta": 0.0,
                "guidance_scale": 5.0,
                "height": 768,
                "width": 768,
            },
        }
    )
