"""OpenAI's CLIP RN50x16 (arXiv 2103.00020), the encoder of semantic diffusion guidance (arXiv 2112.05744)."""

from ml_collections import ConfigDict

from rdm_jax.training.config import Config


def get_config() -> Config:
    """Returns the configuration."""
    return ConfigDict(
        {
            "name": "clip-rn50x16",
            "clip": {
                "embed_dim": 768,
                "vision": {
                    "kind": "resnet",
                    "width": 96,
                    "layers": (6, 8, 18, 8),
                    "heads": 48,
                    "image_size": 384,
                },
                "text": {
                    "vocab_size": 49408,
                    "context_length": 77,
                    "width": 768,
                    "layers": 12,
                    "heads": 12,
                },
                "mean": (0.48145466, 0.4578275, 0.40821073),
                "std": (0.26862954, 0.26130258, 0.27577711),
            },
        }
    )
