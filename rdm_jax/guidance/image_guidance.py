"""Image guidance: after each step the image moves a little towards a clean guide image, less and less over the run.

Zbinden 2022 (https://arxiv.org/abs/2209.10948): x_t + w d_t (z - x_t), where z is a sketch or a photograph, and
d_t = t / T or 1. There is no gradient and no further evaluation of a network. Colors and layout follow the guide image.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.core.calls import File
from rdm_jax.core.checks import required, share
from rdm_jax.core.errors import unknown
from rdm_jax.diffusion.denoiser import Prediction, StepHook, StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.guidance.base import GuidanceMethod, GuideContext, GuideEffects, Networks

DECAYS = {"linear": 1.0, "constant": 0.0}
"""By name: the power of t / T."""


def image_guidance(
    guide: Float[Array, "#b h w c"], weight: Float[Array, ""], power: Float[Array, ""], timesteps: Float[Array, ""]
) -> StepHook:
    """Returns the hook that moves an image towards a guide image.

    Args:
      guide: the image or latent, [b, h, w, c] or one for all.
      weight: w, the fraction of the way in one step at t = T, in [0, 1].
      power: of t / T, which the weight is multiplied by; 0 keeps it.
      timesteps: T, the length of the schedule.
    """

    def move(x_next: Float[Array, "b h w c"], info: StepInfo, prediction: Prediction) -> Float[Array, "b h w c"]:
        """Returns x_next, moved by the weight at its own time."""
        time = per_image(jnp.asarray(info.t_next, jnp.float32) / timesteps, x_next.ndim)
        return x_next + weight * time**power * (guide - x_next)

    return move


@dataclasses.dataclass(frozen=True)
class ImageGuidance(GuidanceMethod):
    """Moves images towards a guide image after each step, by this fraction of the way, which decays over the run."""

    image: File = ""
    weight: float = 0.005
    decay: str = "linear"
    source: ClassVar[str] = "arXiv 2209.10948 (image guidance)"

    def inputs(self, context: GuideContext) -> dict[str, Any]:
        """Returns the guide image's latent, the weight, its decay and the length of the schedule."""
        if self.decay not in DECAYS:
            raise unknown("decay", self.decay, DECAYS)
        return {
            "weight": np.float32(share("weight", self.weight)),
            "guide": context.latent_of(required("image", self.image, "an image file")),
            "power": np.float32(DECAYS[self.decay]),
            "timesteps": np.float32(context.timesteps),
        }

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the hook."""
        return GuideEffects(hooks=(image_guidance(**inputs),))
