"""DPM-Solver++ (2S): Lu et al. 2022 (https://arxiv.org/abs/2211.01095), algorithm 1: singlestep, two evaluations.

A step evaluates the network at its start and half-way in lambda. A plan has two entries for it, with one evaluation
each, so that one scan runs them all. The step to zero noise is of first order, with one evaluation.
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
from rdm_jax.diffusion.spacing import Grid, grid_through


@flax.struct.dataclass
class OriginCarry:
    """The state between two evaluations.

    Attributes:
      x: [b, h, w, c] the input of the next evaluation.
      origin: [b, h, w, c] the noisy image at the start of the step.
    """

    x: Any  # as in StepInfo
    origin: Any


@dataclasses.dataclass(frozen=True)
class DPMpp2S(OnGrid):
    """The singlestep solver of second order; n steps evaluate the network 2 n times, or 2 n - 1 where the last
    goes to zero noise. It needs no noise."""

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid, with two entries for each.

        Coefficients beside the common ones: `again`, 1 in the second entry, which continues from the start of the step;
        `of_x` and `of_x0`, the factors of the noisy image at the start and of x0.
        """
        middle = grid.log_snr[:-1] + np.diff(grid.log_snr) / 2
        between = grid_through(schedule, schedule.time_of(middle[np.isfinite(middle)]))
        # The start and the middle of each step, and the end of the last one.
        visited = Grid(
            *(
                np.insert(one.astype(np.float64), np.arange(1, len(other) + 1), other)
                for one, other in zip(
                    (grid.t, grid.alpha, grid.sigma), (between.t, between.alpha, between.sigma), strict=True
                )
            )
        )
        starts = np.repeat(np.arange(len(grid)), 2)[: len(visited)]
        h = visited.log_snr[1:] - grid.log_snr[starts]
        return plan_steps(
            visited.t[:-1],
            visited.t[1:],
            **levels(visited),
            again=np.arange(len(visited)) % 2,
            of_x=visited.sigma[1:] / grid.sigma[starts],
            of_x0=-visited.alpha[1:] * np.expm1(-h),
        )

    def init(self, x: Float[Array, "b h w c"]) -> OriginCarry:
        """Returns the carry before the first step."""
        return OriginCarry(x=x, origin=x)

    def step(self, carry: OriginCarry, info: StepInfo, denoiser: Denoiser) -> tuple[OriginCarry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction of the step."""
        prediction = denoiser(carry.x, info)
        c = coefficients_of(info, carry.x.ndim)
        origin = jnp.where(c["again"] > 0, carry.origin, carry.x)
        return OriginCarry(x=c["of_x"] * origin + c["of_x0"] * prediction.x0, origin=origin), prediction
