"""Known-region projection: x0 is what is known where something is (Wang et al. 2022, DDNM,
https://arxiv.org/abs/2212.00490, eq. 13, for a mask).

What the network believes of the rest then fits what is known from the step's own noise on; no noise is drawn.
"""

from __future__ import annotations

from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Denoiser, Guide, Prediction, StepInfo
from rdm_jax.guidance.thresholding import with_x0


def known_region(known: Float[Array, "#b h w c"], mask: Float[Array, "#b h w 1"]) -> Guide:
    """Returns the guide that puts a known picture in x0's place where the mask is 0.

    Args:
      known: the picture or latents, [b, h, w, c] or one for all.
      mask: 1 where the picture is painted anew, 0 where it is known; in between both are mixed.
    """

    def guide(denoiser: Denoiser) -> Denoiser:
        """Returns the denoiser whose x0 holds what is known."""

        def projected(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
            """Returns what the denoiser says, with the known part of x0 in place of the predicted one."""
            prediction = denoiser(x_t, info)
            return with_x0(prediction, mask * prediction.x0 + (1.0 - mask) * known, x_t, info)

        return projected

    return guide
