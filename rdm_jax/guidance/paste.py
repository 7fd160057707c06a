"""Inpainting by a model that takes the mask and the known image as its condition: only the known pixels are restored.

Rombach et al. 2022, Latent Diffusion (https://arxiv.org/abs/2112.10752), section 4.5.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array

from rdm_jax.guidance.base import GuideEffects, Networks
from rdm_jax.guidance.common import MaskedImage


@dataclasses.dataclass(frozen=True)
class Paste(MaskedImage):
    """Keeps the pixels of an image where a mask is black; the run itself is not guided, its condition is the mask."""

    source: ClassVar[str] = "arXiv 2112.10752, section 4.5"

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns no effects: the known pixels are restored in the finished image."""
        return GuideEffects()
