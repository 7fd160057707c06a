"""Kind of neighbor tokens: a style encoder, vectors of CLIP, latents, or spatial features of the U-Net.

  rdm ablate ablations/tokens --workdir runs/ablations/tokens
  rdm ablate ablations/tokens:paper --workdir runs/tokens --dry-run

The models have two roles of neighbors (`icons/rdm`), whose style tokens can be of each kind. Left out: vectors of the
neighbors' captions, since databases hold vectors of images. Spatial features are those of the denoiser itself at noise
level zero, as in Re-Imagen.
"""

from typing import Any

from rdm_jax.ablation import recipes

KINDS = {"encoder": "icons/rdm", "vector": "icons/rdm:vector", "latent": "icons/rdm:latent"}
KINDS |= {"features": "icons/rdm:features"}


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    return {
        "title": "Kind of neighbor tokens",
        "stages": recipes.of_roles(scale),
        "axes": {"tokens": {kind: {"run.config": config} for kind, config in KINDS.items()}},
        **recipes.at(scale),
    }
