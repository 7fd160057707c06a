"""OpenAI's CLIP ViT-B/16 (arXiv 2103.00020)."""

from pathlib import Path

from rdm_jax.training.config import Config, load_config

HERE = Path(__file__).parent


def get_config() -> Config:
    """Returns the configuration."""
    config = load_config(f"{HERE}/clip_vit_b32.py").unlock()
    config.name = "clip-vit-b16"
    config.clip.vision.patch_size = 16
    return config
