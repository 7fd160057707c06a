"""OpenAI's CLIP ViT-B/16 (arXiv 2103.00020)."""

from rdm_jax.training.config import Config, load_architecture


def get_config() -> Config:
    """Returns the configuration."""
    config = load_architecture("clip_vit_b32")
    config.name = "clip-vit-b16"
    config.clip.vision.patch_size = 16
    return config
