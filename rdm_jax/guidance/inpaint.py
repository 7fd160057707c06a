"""Inpainting by blending: after each step the known region is replaced by the known image at the step's noise level.

Lugmayr et al. 2022, RePaint (https://arxiv.org/abs/2201.09865), eq. 8, without resampling jumps; in latents, Avrahami
et al. 2022, Blended Latent Diffusion (https://arxiv.org/abs/2206.02779). The known region keeps one noise through the
run: its path is then one that deterministic and multistep samplers can extrapolate, and no noise is sampled.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Prediction, StepHook, StepInfo
from rdm_jax.guidance.base import GuideEffects, Networks
from rdm_jax.guidance.common import MaskedImage, noised


def inpainting(
    known: Float[Array, "#b h w c"], mask: Float[Array, "#b h w 1"], noise: Float[Array, "b h w c"]
) -> StepHook:
    """Returns the hook that keeps the known region.

    Args:
      known: the image or latent, [b, h, w, c] or one for all.
      mask: 1 where the image is generated, 0 where it is known; in between both are mixed.
      noise: of the known region: the initial noise of the run.
    """

    def blend(x_next: Float[Array, "b h w c"], info: StepInfo, prediction: Prediction) -> Float[Array, "b h w c"]:
        """Returns x_next with the known region replaced."""
        return mask * x_next + (1.0 - mask) * noised(known, noise, info)

    return blend


@dataclasses.dataclass(frozen=True)
class Inpaint(MaskedImage):
    """Keeps an image where a mask is black and generates the rest: the known region is replaced after each step."""

    source: ClassVar[str] = "arXiv 2206.02779 (blended latent diffusion)"

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the hook."""
        return GuideEffects(hooks=(inpainting(inputs["known"], inputs["mask"], noise),))
