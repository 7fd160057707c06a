"""Parti's image tokenizer: the small ViT-VQGAN with a decoder of 32 blocks of 1,280 channels (arXiv 2206.10789)."""

from typing import Any

from rdm_jax.training.config import load_architecture


def get_config() -> dict[str, Any]:
    """Returns the configuration of the network."""
    small = load_architecture("vit_vq_small").autoencoder.to_dict()
    larger = {"decoder_width": 1280, "decoder_depth": 32, "decoder_heads": 16, "decoder_mlp_width": 5120}
    return {"name": "vit-vq-large", "autoencoder": small | larger}
