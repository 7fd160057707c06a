"""Parti of 350 M parameters: 12 blocks of 1,024 channels each side over 32x32 codes of 8,192 (arXiv 2206.10789).

The neighbors are an addition: vectors of CLIP ViT-L/14, which also ranks candidates where the paper has CoCa. Texts are
tokens of this CLIP's vocabulary of 49,408, where the paper has 16,000 of SentencePiece, in rows of 128.
"""

from typing import Any

from rdm_jax.training.config import load_architecture


def get_config() -> dict[str, Any]:
    """Returns the configuration of the networks."""
    clip = load_architecture("clip_vit_l14").clip.to_dict()
    vocabulary, width = clip["text"]["vocab_size"], 1024
    encoder = {"context_length": 128, "width": width, "layers": 12, "heads": 16, "head_channels": 64}
    return {
        "name": "parti",
        "head": "autoregressive",
        "text_encoder": {"kind": "bert", "vocab_size": vocabulary, **encoder, "pad_id": vocabulary - 1},
        "image_adapter": {"kind": "vector", "vector_dim": clip["embed_dim"], "token_dim": width, "tokens": 1},
        "transformer": {
            "num_codes": 8192,
            "num_tokens": 1024,
            "width": width,
            "depth": 12,
            "context_dim": width,
            "head_channels": 64,
            "gated": False,
            "final_norm": True,
        },
        "autoencoder": load_architecture("vit_vq_large").autoencoder.to_dict(),
        "clip": clip,
        "conditioning": {"neighbors": 4, "unit_tokens": False, "null": "zeros"},
        "sampling": {
            "condition": "text+neighbors",
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "guidance_scale": 1.2,
            "height": 256,
            "width": 256,
        },
    }
