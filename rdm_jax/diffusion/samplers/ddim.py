"""DDIM: Song et al. 2021, "Denoising Diffusion Implicit Models" (https://arxiv.org/abs/2010.02502), as in CompVis.

With CompVis's spacing the last step goes to t = 0, the schedule's least noisy time, not to a level without noise.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.samplers.base import Carry, OnGrid, coefficients_of, fresh_noise, levels, plan_steps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@dataclasses.dataclass(frozen=True)
class DDIM(OnGrid):
    """The DDIM sampler.

    Attributes:
      spacing: of the times.
      eta: the amount of fresh noise in each step, in [0, 1]: 0 is deterministic and needs no keys, 1 is DDPM.

    Raises:
      UserError: `eta` is out of range.
    """

    spacing: str = "compvis"
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta {self.eta}: it lies between 0 (no fresh noise) and 1 (as much as DDPM)")

    @property
    def needs_noise(self) -> bool:
        """Whether its steps sample noise."""
        return self.eta > 0

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid.

        Coefficients beside the common ones: `eta_sigma`, the standard deviation of the fresh noise (eq. 16), and
        `direction`, the factor of eps (eq. 12).
        """
        abar, abar_next = grid.alpha[:-1] ** 2, grid.alpha[1:] ** 2
        variance = self.eta**2 * (1.0 - abar_next) / (1.0 - abar) * (1.0 - abar / abar_next)
        direction = np.sqrt(1.0 - abar_next - variance)
        own = {"eta_sigma": np.sqrt(variance), "direction": direction}
        return plan_steps(grid.t[:-1], grid.t[1:], **levels(grid), **own)

    def init(self, x: Float[Array, "b h w c"]) -> Carry:
        """Returns the carry before the first step."""
        return Carry(x=x)

    def step(self, carry: Carry, info: StepInfo, denoiser: Denoiser) -> tuple[Carry, Prediction]:
        """Returns the carry at `info.t_next` (Song et al., eq. 12), and the prediction of the step.

        Raises:
          ValueError: eta is not 0 and the step has no keys.
        """
        prediction = denoiser(carry.x, info)
        c = coefficients_of(info, carry.x.ndim)
        x = c["alpha_next"] * prediction.x0 + c["direction"] * prediction.eps
        if self.eta:
            x += c["eta_sigma"] * fresh_noise(info, x.shape[1:], f"DDIM with eta {self.eta}")
        return Carry(x=x), prediction
