"""The configuration of a tiny ViT-VQGAN: f4, images of 16 pixels."""

from __future__ import annotations

TINY = {
    "kind": "vit_vq",
    "resolution": 16,
    "patch_size": 4,
    "width": 8,
    "depth": 1,
    "heads": 2,
    "mlp_width": 16,
    "decoder_width": 12,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "decoder_mlp_width": 16,
    "head_channels": 4,
    "num_codes": 12,
    "embed_dim": 4,
}
