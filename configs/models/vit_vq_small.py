"""ViT-VQGAN of the small size: f8, 8 blocks of 512 channels each side, 8,192 codes of 32 (arXiv 2110.04627, table 2).

The released program has 64 channels in every head, at this size as many as the paper.
"""

from typing import Any


def get_config() -> dict[str, Any]:
    """Returns the configuration of the network."""
    return {
        "name": "vit-vq-small",
        "autoencoder": {
            "kind": "vit_vq",
            "resolution": 256,
            "patch_size": 8,
            "width": 512,
            "depth": 8,
            "heads": 8,
            "mlp_width": 2048,
            "decoder_width": 512,
            "decoder_depth": 8,
            "decoder_heads": 8,
            "decoder_mlp_width": 2048,
            "num_codes": 8192,
            "embed_dim": 32,
        },
    }
