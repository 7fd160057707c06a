"""Euler's method on the probability flow, with churn: Karras et al. 2022 (https://arxiv.org/abs/2206.00364).

Their algorithm 2 without the correction. Without churn it is DDIM on the same grid.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.samplers.base import Carry, OnGrid, coefficients_of, fresh_noise, plan_steps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@dataclasses.dataclass(frozen=True)
class Churning(OnGrid):
    """What Euler and Heun share: noise that is added before a step, so that errors of the steps before wear off.

    Attributes:
      spacing: which times are visited.
      churn: how much noise in all (S_churn); 0 is deterministic and needs no keys.
      churn_from: the least sigma / alpha at which noise is added (S_tmin).
      churn_to: the greatest (S_tmax).
      churn_noise: the deviation of what is added, 1 or slightly more (S_noise).

    Raises:
      UserError: `churn` or `churn_noise` is negative.
    """

    churn: float = 0.0
    churn_from: float = 0.0
    churn_to: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("churn", "churn_noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} {getattr(self, name)} is out of range; give 0 (none) or more")

    @property
    def draws(self) -> bool:
        """Whether its steps draw noise."""
        return self.churn > 0

    def churned(self, grid: Grid, schedule: Schedule) -> dict[str, np.ndarray]:
        """Returns where each step asks the network, [n] each: `t`, `alpha`, `sigma`; `raised`, the noise's deviation in
        units of x / alpha; and `alpha_from`, the factor of the signal before it was added."""
        began = grid.sigma[:-1] / grid.alpha[:-1]
        most = math.exp(-schedule.log_snr[-1])
        factor = min(self.churn / len(grid), math.sqrt(2.0) - 1.0)
        inside = (began >= self.churn_from) & (began <= self.churn_to) & (factor > 0)
        # More noise than the schedule has, no network knows.
        raised = np.where(inside, np.minimum(began * (1.0 + factor), np.maximum(began, most)), began)
        alpha = np.where(raised == began, grid.alpha[:-1], 1.0 / np.sqrt(1.0 + raised**2))
        return {
            "t": schedule.time_of(-np.log(raised)) if inside.any() else grid.t[:-1],
            "alpha": alpha,
            "sigma": np.where(raised == began, grid.sigma[:-1], raised * alpha),
            "raised": self.churn_noise * np.sqrt(raised**2 - began**2),
            "alpha_from": grid.alpha[:-1],
        }

    def stirred(self, x: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, "b h w c"]:
        """Returns the picture at the level where the network is asked."""
        if not self.churn:
            return x
        c = coefficients_of(info, x.ndim)
        noise = fresh_noise(info, x.shape[1:], f"churn {self.churn}")
        return c["alpha"] * (x / c["alpha_from"] + c["raised"] * noise)


@dataclasses.dataclass(frozen=True)
class Euler(Churning):
    """Euler's method; a step asks the network once."""

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the steps through a grid."""
        asked = self.churned(grid, schedule)
        t = asked.pop("t")
        return plan_steps(t, grid.t[1:], **asked, alpha_next=grid.alpha[1:], sigma_next=grid.sigma[1:])

    def init(self, x: Float[Array, "b h w c"]) -> Carry:
        """Returns the carry from which the first step starts."""
        return Carry(x=x)

    def step(self, carry: Carry, info: StepInfo, denoiser: Denoiser) -> tuple[Carry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction made on the way.

        Raises:
          ValueError: there is churn and the step has no keys.
        """
        prediction = denoiser(self.stirred(carry.x, info), info)
        c = coefficients_of(info, carry.x.ndim)
        return Carry(x=c["alpha_next"] * prediction.x0 + c["sigma_next"] * prediction.eps), prediction
