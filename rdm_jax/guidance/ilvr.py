"""ILVR: Choi et al. 2021, "Conditioning Method for Denoising Diffusion" (https://arxiv.org/abs/2108.02938).

After a step the low frequencies of the picture are exchanged for those of a reference, as noisy as the step's end
(algorithm 1). The filter takes means over squares of N x N. The paper resizes bicubically, which is no projection: then
the picture at the end has only nearly the reference's low frequencies, here it has them.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Prediction, StepHook, StepInfo
from rdm_jax.guidance.inpainting import noised


def low_pass(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h w c"]:
    """Returns the means over squares of factor x factor, at full size.

    Raises:
      UserError: the factor does not divide height and width.
    """
    b, h, w, c = x.shape
    if factor < 1 or h % factor or w % factor:
        raise UserError(f"ILVR factor {factor} does not divide {h}x{w}; choose a divisor of both")
    means = x.reshape(b, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))
    return jnp.repeat(jnp.repeat(means, factor, axis=1), factor, axis=2)


def ilvr(
    reference: Float[Array, "#b h w c"], factor: int, until: Float[Array, ""], noise: Float[Array, "b h w c"]
) -> StepHook:
    """Returns the hook that gives a picture the low frequencies of a reference.

    Args:
      reference: the picture or latents, [b, h, w, c] or one for all.
      factor: N, the side of the squares whose means are exchanged; more leaves more freedom.
      until: the time below which steps are free; 0 or less conditions all of them.
      noise: of the reference; that which the run starts from.
    """

    def exchange(x_next: Float[Array, "b h w c"], info: StepInfo, prediction: Prediction) -> Float[Array, "b h w c"]:
        """Returns the picture after a step with the reference's low frequencies, itself where the step is free."""
        wanted = low_pass(noised(reference, noise, info), factor)
        return jnp.where(info.t > until, x_next - low_pass(x_next, factor) + wanted, x_next)

    return exchange
