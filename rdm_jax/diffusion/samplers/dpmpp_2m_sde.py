"""DPM-Solver++ (2M) on the reverse stochastic equation: Lu et al. 2022 (https://arxiv.org/abs/2211.01095), appendix F.

Like the deterministic solver, with fresh noise in each step: it corrects errors of earlier steps, so that images keep
improving with more steps.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.samplers.base import OnGrid, coefficients_of, fresh_noise, levels, plan_steps
from rdm_jax.diffusion.samplers.dpmpp_2m import TwoStepCarry, extrapolation
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@dataclasses.dataclass(frozen=True)
class DPMpp2MSDE(OnGrid):
    """The stochastic multistep solver of second order (the midpoint form); a step evaluates the network once."""

    @property
    def needs_noise(self) -> bool:
        """Whether its steps sample noise."""
        return True

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid.

        Coefficients beside the common ones: `of_x` and `of_x0`, the factors of x and of x0, `extrapolated`, and
        `fresh`, the noise's deviation.
        """
        h = np.diff(grid.log_snr)
        own = {
            "of_x": grid.sigma[1:] / grid.sigma[:-1] * np.exp(-h),
            "of_x0": -grid.alpha[1:] * np.expm1(-2.0 * h),
            "extrapolated": extrapolation(grid),
            "fresh": grid.sigma[1:] * np.sqrt(-np.expm1(-2.0 * h)),
        }
        return plan_steps(grid.t[:-1], grid.t[1:], **levels(grid), **own)

    def init(self, x: Float[Array, "b h w c"]) -> TwoStepCarry:
        """Returns the carry before the first step."""
        return TwoStepCarry(x=x, before=jnp.zeros_like(x))

    def step(self, carry: TwoStepCarry, info: StepInfo, denoiser: Denoiser) -> tuple[TwoStepCarry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction of the step.

        Raises:
          ValueError: the step has no keys.
        """
        prediction = denoiser(carry.x, info)
        c = coefficients_of(info, carry.x.ndim)
        x0 = prediction.x0 + c["extrapolated"] * (prediction.x0 - carry.before)
        noise = fresh_noise(info, carry.x.shape[1:], "the stochastic DPM-Solver++")
        return TwoStepCarry(c["of_x"] * carry.x + c["of_x0"] * x0 + c["fresh"] * noise, prediction.x0), prediction
