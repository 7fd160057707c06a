"""Muse in two stages: the base model, and the one that predicts 64x64 codes from its 16x16 (arXiv 2301.00704).

The second stage has 16 blocks over the coarse codes and 32 over the fine ones, whose attention is over two axes, with
1,024 channels. Its first stage halves an image of 512 pixels three times, where that of the base halves one of 256 four
times; both have 8,192 codes.
"""

from typing import Any

from rdm_jax.training.config import load_architecture


def get_config() -> dict[str, Any]:
    """Returns the configuration of the networks."""
    base = load_architecture("muse").to_dict()
    codebook = {key: base["autoencoder"][key] for key in ("num_codes", "z_channels", "embed_dim", "mid_attention")}
    fine = load_architecture("vq_f8").autoencoder.to_dict() | codebook | {"attn_resolutions": (), "resolution": 512}
    return {
        **base,
        "name": "muse-fine",
        "fine_autoencoder": fine,
        "fine_transformer": {
            "num_codes": 8192,
            "num_tokens": 4096,
            "coarse_codes": base["transformer"]["num_codes"],
            "coarse_tokens": base["transformer"]["num_tokens"],
            "width": 1024,
            "depth": 32,
            "coarse_depth": 16,
            "context_dim": base["transformer"]["context_dim"],
            "head_channels": 64,
            "gated": False,
            "square": 8,
        },
        "sampling": {**base["sampling"], "fine_steps": 8, "height": 512, "width": 512},
    }
