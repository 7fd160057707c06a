"""Projection onto a known region: the predicted x0 is replaced by the known image where that is known (Wang et al.
2022, DDNM, https://arxiv.org/abs/2212.00490, eq. 13, for a mask).

The predicted x0 of the rest then agrees with the known region within the step itself; no noise is sampled.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Denoiser, Guide, Prediction, StepInfo
from rdm_jax.guidance.base import GuideEffects, Networks
from rdm_jax.guidance.common import MaskedImage, with_x0


def projection(known: Float[Array, "#b h w c"], mask: Float[Array, "#b h w 1"]) -> Guide:
    """Returns the guide that replaces the predicted x0 by a known image where the mask is 0.

    Args:
      known: the image or latent, [b, h, w, c] or one for all.
      mask: 1 where the image is generated, 0 where it is known; in between both are mixed.
    """

    def guide(denoiser: Denoiser) -> Denoiser:
        """Returns the denoiser whose x0 contains the known region."""

        def projected(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
            """Returns the prediction with the known region in place of the predicted one."""
            prediction = denoiser(x_t, info)
            return with_x0(prediction, mask * prediction.x0 + (1.0 - mask) * known, x_t, info)

        return projected

    return guide


@dataclasses.dataclass(frozen=True)
class Project(MaskedImage):
    """Keeps an image where a mask is black and generates the rest: the predicted x0 is the known image there."""

    source: ClassVar[str] = "arXiv 2212.00490, eq. 13 (DDNM)"

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the guide."""
        return GuideEffects(guides=(projection(inputs["known"], inputs["mask"]),))
