"""OpenAI's CLIP ViT-B/32 (arXiv 2103.00020)."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "clip-vit-b32",
            "clip": {
                "embed_dim": 512,
                "vision": {
                    "kind": "vit",
                    "width": 768,
                    "layers": 12,
                    "heads": 12,
                    "patch_size": 32,
                    "image_size": 224,
                },
                "text": {
                    "vocab_size": 49408,
                    "context_length": 77,
                    "width": 512,
                    "layers": 12,
                    "heads": 8,
                },
                "mean": (0.48145466, 0.4578275, 0.40821073),
                "std": (0.26862954, 0.26130258, 0.27577711),
            },
        }
    )
