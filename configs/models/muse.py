"""Muse's base model: 48 blocks of 2,048 channels over 16x16 codes of 8,192 (arXiv 2301.00704).

The paper conditions it on the tokens of T5-XXL; here it is conditioned on the vectors of CLIP ViT-L/14, of the prompt
and of its neighbors. The first stage is convolutional, without attention; the paper has 19 residual blocks with 128
base channels and does not say how they are placed: the levels here are those of vq-f16.
"""

from typing import Any

from rdm_jax.training.config import load_architecture


def get_config() -> dict[str, Any]:
    """Returns the configuration of the networks."""
    autoencoder = load_architecture("vq_f16").autoencoder.to_dict()
    return {
        "name": "muse",
        "head": "masked",
        "transformer": {
            "num_codes": 8192,
            "num_tokens": 256,
            "width": 2048,
            "depth": 48,
            "context_dim": 768,
            "head_channels": 64,
            "causal": False,
        },
        "autoencoder": autoencoder
        | {"num_codes": 8192, "z_channels": 256, "embed_dim": 256, "attn_resolutions": (), "mid_attention": False},
        "clip": load_architecture("clip_vit_l14").clip.to_dict(),
        "conditioning": {"neighbors": 4, "unit_tokens": True, "null": "zeros"},
        "sampling": {
            "condition": "text+neighbors",
            "steps": 24,
            "mask_schedule": "cosine",
            "guidance_scale": 4.0,
            "guidance_schedule": "growing",
            "temperature": 1.0,
            "choice_temperature": 4.5,
            "height": 256,
            "width": 256,
        },
    }
