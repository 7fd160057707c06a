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
    """Euler and Heun with churn: noise added before a step, which corrects errors of earlier steps.

    Attributes:
      spacing: of the times.
      churn: the total amount of noise (S_churn); 0 is deterministic and needs no keys.
      churn_from: the least sigma / alpha at which noise is added (S_tmin).
      churn_to: the greatest (S_tmax).
      churn_noise: the standard deviation of the added noise, 1 or slightly more (S_noise).

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
    def needs_noise(self) -> bool:
        """Whether its steps sample noise."""
        return self.churn > 0

    def churn_coefficients(self, grid: Grid, schedule: Schedule) -> dict[str, np.ndarray]:
        """Returns the levels at which each step evaluates the network, [n] each: `t`, `alpha`, `sigma`; `churn_sigma`,
        the standard deviation of the added noise in units of x / alpha; and `alpha_from`, alpha before it is added."""
        sigma = grid.sigma[:-1] / grid.alpha[:-1]
        most = math.exp(-schedule.log_snr[-1])
        factor = min(self.churn / len(grid), math.sqrt(2.0) - 1.0)
        inside = (sigma >= self.churn_from) & (sigma <= self.churn_to) & (factor > 0)
        # The network was not trained on more noise than the schedule has.
        sigma_hat = np.where(inside, np.minimum(sigma * (1.0 + factor), np.maximum(sigma, most)), sigma)
        alpha = np.where(sigma_hat == sigma, grid.alpha[:-1], 1.0 / np.sqrt(1.0 + sigma_hat**2))
        return {
            "t": schedule.time_of(-np.log(sigma_hat)) if inside.any() else grid.t[:-1],
            "alpha": alpha,
            "sigma": np.where(sigma_hat == sigma, grid.sigma[:-1], sigma_hat * alpha),
            "churn_sigma": self.churn_noise * np.sqrt(sigma_hat**2 - sigma**2),
            "alpha_from": grid.alpha[:-1],
        }

    def add_churn(self, x: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, "b h w c"]:
        """Returns x with the step's noise added, at the level where the network is evaluated."""
        if not self.churn:
            return x
        c = coefficients_of(info, x.ndim)
        noise = fresh_noise(info, x.shape[1:], f"churn {self.churn}")
        return c["alpha"] * (x / c["alpha_from"] + c["churn_sigma"] * noise)


@dataclasses.dataclass(frozen=True)
class Euler(Churning):
    """Euler's method; a step evaluates the network once."""

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid."""
        levels = self.churn_coefficients(grid, schedule)
        t = levels.pop("t")
        return plan_steps(t, grid.t[1:], **levels, alpha_next=grid.alpha[1:], sigma_next=grid.sigma[1:])

    def init(self, x: Float[Array, "b h w c"]) -> Carry:
        """Returns the carry before the first step."""
        return Carry(x=x)

    def step(self, carry: Carry, info: StepInfo, denoiser: Denoiser) -> tuple[Carry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction of the step.

        Raises:
          ValueError: there is churn and the step has no keys.
        """
        prediction = denoiser(self.add_churn(carry.x, info), info)
        c = coefficients_of(info, carry.x.ndim)
        return Carry(x=c["alpha_next"] * prediction.x0 + c["sigma_next"] * prediction.eps), prediction
