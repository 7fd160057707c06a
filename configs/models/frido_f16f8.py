"""Frido as released for captions of COCO, f16 and f8: prompts as 77 states of a transformer (arXiv 2208.13753)."""

from ml_collections import ConfigDict

from rdm_jax.convert import frido
from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "frido-f16f8",
            "head": "diffusion",
            "denoiser": {
                "kind": "pyunet",
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": 192,
                "channel_mult": (1, 2, 3, 5),
                "num_res_blocks": 2,
                "attention_resolutions": (8, 4, 2),
                "num_heads": 1,
                "context_dim": 640,
            },
            "autoencoder": {
                "kind": "multi_scale_vq",
                "ch": 128,
                "ch_mult": (1, 1, 2, 2, 4),
                "decoder_ch_mult": (1, 1, 2, 4),
                "num_res_blocks": 2,
                "attn_resolutions": (32,),
                "decoder_attn_resolutions": (32,),
                "resolution": 256,
                "scale_channels": 4,
                "num_codes": (8192, 8192),
            },
            "text_encoder": {
                "kind": "bert",
                "vocab_size": 30522,
                "context_length": 77,
                "width": 640,
                "layers": 32,
                "pad_id": 0,
            },
            "diffusion": {
                "num_timesteps": 1000,
                "schedule": "scaled_linear",
                "beta_start": 0.0015,
                "beta_end": 0.0155,
                "prediction": "eps",
            },
            "latents": {"scale": 1.0, "quantize": True},  # a checkpoint has a scale of each part
            **frido.conventions(256),
        }
    )
