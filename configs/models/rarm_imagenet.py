"""RARM on ImageNet, as released: 18 blocks of 768 channels over 16x16 codes of 16,384 (arXiv 2204.11824).

The models of dogs, mammals and animals have this one architecture. The first stage is taming-transformers' ImageNet
VQGAN, whose codes have 256 channels, not the vq-f16 that the configurations for training name.
"""

from typing import Any

from rdm_jax.training.config import load_architecture


def get_config() -> dict[str, Any]:
    """Returns the configuration of the networks."""
    autoencoder = load_architecture("vq_f16").autoencoder.to_dict()
    return {
        "name": "rarm-imagenet",
        "head": "autoregressive",
        "transformer": {
            "num_codes": 16384,
            "num_tokens": 256,
            "width": 768,
            "depth": 18,
            "context_dim": 512,
            "head_channels": 64,
        },
        "autoencoder": autoencoder | {"z_channels": 256, "embed_dim": 256},
        "clip": load_architecture("clip_vit_b32").clip.to_dict(),
        "conditioning": {"neighbors": 4, "unit_tokens": False, "null": "zeros"},
        "sampling": {
            "condition": "neighbors",
            "temperature": 1.0,
            "top_k": 256,
            "top_p": 1.0,
            "guidance_scale": 1.0,
            "height": 256,
            "width": 256,
        },
    }
