"""A tiny diffusion model with all encoders."""

from __future__ import annotations

from typing import Any

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.encoders import POOLED
from tests.helpers import tiny

NAMES = ("clip_text", "clip_states", "text_states", "clip_image", "neighbors")
SIZES = {"text_states": 8}
LENGTHS = {"clip_states": 8, "text_states": 6}


def bundle(names: tuple[str, ...] = NAMES, **changes: Any) -> Bundle:
    """Returns a model with random parameters and some encoders; those of POOLED are beside the time too."""
    beside = [name for name in POOLED if name in names]
    sizes = [SIZES.get(name, tiny.WIDTH) for name in names]
    text = {"kind": "bert", "vocab_size": 300, "context_length": 6, "width": 8, "layers": 1, "heads": 1}
    return tiny.bundle(
        conditioning={"neighbors": 2, "unit_tokens": False, "null": "zeros"},
        denoiser={**tiny.CONFIG["denoiser"], "vector_dim": tiny.WIDTH * len(beside)},
        encoder_tokens={"encoders": list(names), "sizes": sizes, "token_dim": tiny.WIDTH, "beside_time": beside},
        **({"text_encoder": {**text, "head_channels": 8, "pad_id": 1}} if "text_states" in names else {}),
        **changes,
    )
