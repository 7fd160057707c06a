"""ILVR: Choi et al. 2021, "Conditioning Method for Denoising Diffusion" (https://arxiv.org/abs/2108.02938).

After a step the low frequencies of the image are replaced by those of a reference at the noise level of the step's end
(algorithm 1). The filter takes means over squares of N x N. The paper's bicubic resizing is not a projection: its final
image has the reference's low frequencies only approximately, here it has them exactly.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.core.calls import File
from rdm_jax.core.checks import required, share
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Prediction, StepHook, StepInfo
from rdm_jax.guidance.base import GuidanceMethod, GuideContext, GuideEffects, Networks
from rdm_jax.guidance.common import noised


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
    """Returns the hook that gives an image the low frequencies of a reference.

    Args:
      reference: the image or latent, [b, h, w, c] or one for all.
      factor: N, the side of the squares whose means are replaced; a larger N constrains less.
      until: the time up to which steps are unconstrained; with 0 or less none is.
      noise: of the reference: the initial noise of the run.
    """

    def exchange(x_next: Float[Array, "b h w c"], info: StepInfo, prediction: Prediction) -> Float[Array, "b h w c"]:
        """Returns x_next with the reference's low frequencies, unchanged in an unconstrained step."""
        wanted = low_pass(noised(reference, noise, info), factor)
        return jnp.where(info.t > until, x_next - low_pass(x_next, factor) + wanted, x_next)

    return exchange


@dataclasses.dataclass(frozen=True)
class ILVR(GuidanceMethod):
    """Gives images the low frequencies of a reference: means over factor x factor latents, until this fraction of the
    schedule is left."""

    image: File = ""
    factor: int = 4
    until: float = 0.0
    source: ClassVar[str] = "arXiv 2108.02938, algorithm 1"

    @property
    def static(self) -> tuple[Any, ...]:
        """The factor."""
        return (self.factor,)

    def inputs(self, context: GuideContext) -> dict[str, Any]:
        """Returns the reference's latent and the time where conditioning ends."""
        reference = context.latent_of(required("image", self.image, "an image file"))
        jax.eval_shape(lambda x: low_pass(x, self.factor), reference)  # refuses a factor that does not fit
        return {"reference": reference, "until": np.float32(share("until", self.until) * context.timesteps - 0.5)}

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the hook."""
        return GuideEffects(hooks=(ilvr(inputs["reference"], self.factor, inputs["until"], noise),))
