"""Inpainting and outpainting by blending: after each step the known part is put back, as noisy as the rest.

Lugmayr et al. 2022, RePaint (https://arxiv.org/abs/2201.09865), eq. 8, without its jumps; in latents, Avrahami et al.
2022, Blended Latent Diffusion (https://arxiv.org/abs/2206.02779). The known part keeps one noise through the run, so
that it follows a path that deterministic and multistep samplers can extrapolate, and nothing is drawn.
"""

from __future__ import annotations

from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Prediction, StepHook, StepInfo
from rdm_jax.diffusion.parameterization import per_image


def noised(x0: Float[Array, "#b h w c"], noise: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, "b h w c"]:
    """Returns alpha x0 + sigma noise at the level where a step ends; x0 itself where that has no noise."""
    alpha, sigma = (per_image(info.coefficients[name], noise.ndim) for name in ("alpha_next", "sigma_next"))
    return alpha * x0 + sigma * noise


def inpainting(
    known: Float[Array, "#b h w c"], mask: Float[Array, "#b h w 1"], noise: Float[Array, "b h w c"]
) -> StepHook:
    """Returns the hook that keeps what is known.

    Args:
      known: the picture or latents, [b, h, w, c] or one for all.
      mask: 1 where the picture is painted anew, 0 where it is kept; in between both are mixed.
      noise: of the known part; that which the run starts from.
    """

    def blend(x_next: Float[Array, "b h w c"], info: StepInfo, prediction: Prediction) -> Float[Array, "b h w c"]:
        """Returns the picture after a step with the known part put back."""
        return mask * x_next + (1.0 - mask) * noised(known, noise, info)

    return blend
