"""Frido for retrieval: the networks of `frido_f16f8`, conditioned on vectors of CLIP ViT-L/14 (arXiv 2208.13753).

The paper's best model reads the tokens of this CLIP's text tower; here it is conditioned on the vectors of the prompt
and of its neighbors.
"""

from typing import Any

from rdm_jax.training.config import load_architecture


def get_config() -> dict[str, Any]:
    """Returns the configuration of the networks."""
    released = load_architecture("frido_f16f8").to_dict()
    clip = load_architecture("clip_vit_l14").clip.to_dict()
    return {
        **{key: released[key] for key in ("head", "autoencoder", "diffusion", "latents")},
        "name": "frido",
        "denoiser": {**released["denoiser"], "context_dim": clip["embed_dim"]},
        "clip": clip,
        "conditioning": {"neighbors": 4, "unit_tokens": True, "null": "zeros"},
        "sampling": {**released["sampling"], "condition": "text+neighbors"},
    }
