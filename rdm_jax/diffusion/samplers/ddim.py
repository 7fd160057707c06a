"""DDIM: Song et al. 2021, "Denoising Diffusion Implicit Models" (https://arxiv.org/abs/2010.02502), as CompVis runs it.

The last step goes to t = 0, the schedule's least noisy time, not to a level without noise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import normal
from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.diffusion.samplers.base import plan_steps, uniform_timesteps
from rdm_jax.diffusion.schedule import Schedule


@flax.struct.dataclass
class Carry:
    """The picture between two steps, `x` [b, h, w, c]."""

    x: Any  # as in StepInfo


@dataclasses.dataclass(frozen=True)
class DDIM:
    """The DDIM sampler.

    Attributes:
      eta: how much fresh noise a step adds, in [0, 1]: 0 is deterministic and needs no keys, 1 is ancestral (DDPM).

    Raises:
      UserError: `eta` is out of range.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta {self.eta}: it lies between 0 (no fresh noise) and 1 (as much as DDPM)")

    def plan(self, schedule: Schedule, num_steps: int) -> StepInfo:
        """Returns the steps through CompVis's uniform times, the noisiest first, without keys.

        Beside the common coefficients: `eta_sigma`, the fresh noise's standard deviation (Song et al., eq. 16), and
        `direction`, the factor of eps (eq. 12).

        Raises:
          UserError: the number of steps does not fit the schedule.
        """
        t = uniform_timesteps(len(schedule), num_steps)[::-1]
        return self.plan_through(schedule, t, np.append(t[1:], 0))

    def plan_through(self, schedule: Schedule, t: Int[np.ndarray, " n"], t_next: Int[np.ndarray, " n"]) -> StepInfo:
        """Returns the steps from each time `t` [n] to `t_next` [n] <= t, both in [0, T), in the order given."""
        abar, abar_next = schedule.alphas_cumprod[t], schedule.alphas_cumprod[t_next]
        variance = self.eta**2 * (1.0 - abar_next) / (1.0 - abar) * (1.0 - abar / abar_next)
        direction = np.sqrt(1.0 - abar_next - variance)
        return plan_steps(schedule, t, t_next, eta_sigma=np.sqrt(variance), direction=direction)

    def init(self, x: Float[Array, "b h w c"]) -> Carry:
        """Returns the carry from which the first step starts."""
        return Carry(x=x)

    def step(self, carry: Carry, info: StepInfo, denoiser: Denoiser) -> tuple[Carry, Prediction]:
        """Returns the carry at `info.t_next` (Song et al., eq. 12), and the prediction made on the way.

        Raises:
          ValueError: eta is not 0 and the step has no keys.
        """
        prediction = denoiser(carry.x, info)
        c = {name: per_image(value, carry.x.ndim) for name, value in info.coefficients.items()}
        x = c["alpha_next"] * prediction.x0 + c["direction"] * prediction.eps
        if self.eta == 0:
            return Carry(x=x), prediction
        if info.keys is None:
            raise ValueError(f"DDIM with eta {self.eta} draws noise: give the plan its keys, `with_keys(steps, keys)`")
        return Carry(x=x + c["eta_sigma"] * normal(info.keys, x.shape[1:])), prediction
