"""Stable Diffusion 2.x at 768 pixels: predicts v, prompts as 77 states of OpenCLIP ViT-H/14's text tower."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config, load_architecture


def get_config() -> Config:
    """Returns the configuration; the base models predict eps, at 512 pixels."""
    config = load_architecture("sd15").to_dict()
    heads = {"num_heads": 0, "num_head_channels": 64}
    text = {"width": 1024, "layers": 23, "heads": 16, "activation": "gelu", "pad_id": 0}
    return ConfigDict(
        {
            **config,
            "name": "sd2-v",
            "denoiser": {**config["denoiser"], **heads, "context_dim": 1024},
            "text_encoder": {**config["text_encoder"], **text},
            "diffusion": {**config["diffusion"], "prediction": "v"},
            "sampling": {**config["sampling"], "guidance_scale": 9.0, "height": 768, "width": 768},
        }
    )
