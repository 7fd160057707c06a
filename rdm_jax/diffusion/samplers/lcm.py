"""The multistep sampler of latent consistency models: Luo et al. 2023 (https://arxiv.org/abs/2310.04378), algorithm 3.

Every step predicts the image and adds fresh noise at the next level. The boundary condition of these models changes the
predicted image by less than 1e-5 of its size at their times, t = 19 and above, and is left out.
"""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.samplers.base import Carry, OnGrid, coefficients_of, fresh_noise, levels, plan_steps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@dataclasses.dataclass(frozen=True)
class LCM(OnGrid):
    """The sampler of consistency models; a step evaluates the network once.

    Attributes:
      spacing: of the times; "lcm" takes those on which such models are trained.
    """

    spacing: str = "lcm"

    @property
    def needs_noise(self) -> bool:
        """Whether its steps sample noise."""
        return True

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid."""
        return plan_steps(grid.t[:-1], grid.t[1:], **levels(grid))

    def init(self, x: Float[Array, "b h w c"]) -> Carry:
        """Returns the carry before the first step."""
        return Carry(x=x)

    def step(self, carry: Carry, info: StepInfo, denoiser: Denoiser) -> tuple[Carry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction of the step.

        Raises:
          ValueError: the step has no keys.
        """
        prediction = denoiser(carry.x, info)
        c = coefficients_of(info, carry.x.ndim)
        noise = fresh_noise(info, carry.x.shape[1:], "LCM")
        return Carry(x=c["alpha_next"] * prediction.x0 + c["sigma_next"] * noise), prediction
