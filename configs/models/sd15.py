"""Stable Diffusion 1.x: 512 pixels, prompts as 77 states of CLIP ViT-L/14's text tower (arXiv 2112.10752)."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, load_architecture


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "sd15",
            "head": "diffusion",
            "denoiser": {
                "kind": "unet",
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 320,
                "channel_mult": (1, 2, 4, 4),
                "num_res_blocks": 2,
                "attention_resolutions": (4, 2, 1),
                "num_heads": 8,
                "context_dim": 768,
            },
            "autoencoder": load_architecture("kl_f8").autoencoder,
            "text_encoder": {
                "kind": "clip",
                "width": 768,
                "layers": 12,
                "heads": 12,
                "vocab_size": 49408,
                "context_length": 77,
                "activation": "quick_gelu",
                "pad_id": 49407,
            },
            "diffusion": {
                "num_timesteps": 1000,
                "schedule": "scaled_linear",
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "prediction": "eps",
            },
            "latents": {"scale": 0.18215},
            "conditioning": {"neighbors": 0, "null": "zeros"},
            "sampling": {
                "condition": "text",
                "sampler": "ddim",
                "steps": 50,
                "eta": 0.0,
                "guidance_scale": 7.5,
                "height": 512,
                "width": 512,
            },
        }
    )
