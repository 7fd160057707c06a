"""DPM-Solver++ (2M): Lu et al. 2022 (https://arxiv.org/abs/2211.01095), algorithm 2: multistep, one evaluation each.

The linear part of the flow is solved exactly; the predicted x0 is extrapolated from this step and the one before. The
first step, and one that ends without noise, are of first order: DDIM's.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.samplers.base import OnGrid, coefficients_of, levels, plan_steps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@flax.struct.dataclass
class TwoStepCarry:
    """The state between two steps.

    Attributes:
      x: [b, h, w, c] the noisy image.
      before: [b, h, w, c] the x0 predicted in the step before.
    """

    x: Any  # as in StepInfo
    before: Any


def extrapolation(grid: Grid) -> np.ndarray:
    """Returns w [n] of x0 + w (x0 - before): half of this step's length in lambda over the last one's, 0 where a step
    is of first order (Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 2)."""
    h = np.diff(grid.log_snr)
    w = np.zeros(len(grid))
    w[1:] = h[1:] / (2.0 * h[:-1])
    if grid.ends_without_noise:
        w[-1] = 0.0
    return w


@dataclasses.dataclass(frozen=True)
class DPMpp2M(OnGrid):
    """The multistep solver of second order; it needs no noise, and a step evaluates the network once."""

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid.

        Coefficients beside the common ones: `of_x` and `of_x0`, the factors of x and of x0, and `extrapolated`.
        """
        h = np.diff(grid.log_snr)
        own = {
            "of_x": grid.sigma[1:] / grid.sigma[:-1],
            "of_x0": -grid.alpha[1:] * np.expm1(-h),
            "extrapolated": extrapolation(grid),
        }
        return plan_steps(grid.t[:-1], grid.t[1:], **levels(grid), **own)

    def init(self, x: Float[Array, "b h w c"]) -> TwoStepCarry:
        """Returns the carry before the first step."""
        return TwoStepCarry(x=x, before=jnp.zeros_like(x))

    def step(self, carry: TwoStepCarry, info: StepInfo, denoiser: Denoiser) -> tuple[TwoStepCarry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction of the step."""
        prediction = denoiser(carry.x, info)
        c = coefficients_of(info, carry.x.ndim)
        x0 = prediction.x0 + c["extrapolated"] * (prediction.x0 - carry.before)
        return TwoStepCarry(x=c["of_x"] * carry.x + c["of_x0"] * x0, before=prediction.x0), prediction
