"""DPM-Solver++ (2S): Lu et al. 2022 (https://arxiv.org/abs/2211.01095), algorithm 1: one step, two calls.

A step asks the network where it begins and half-way in lambda; a plan holds both, so that each of its steps asks once
and one scan runs them all. The step to no noise is of first order and asks once.
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
    """What a step starts from.

    Attributes:
      x: [b, h, w, c] where the network is asked.
      origin: [b, h, w, c] where the step began.
    """

    x: Any  # as in StepInfo
    origin: Any


@dataclasses.dataclass(frozen=True)
class DPMpp2S(OnGrid):
    """The singlestep solver of second order; n steps ask the network 2 n times, or 2 n - 1 where the last goes to no
    noise. It draws none."""

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the steps through a grid, two for each of it.

        Beside the common coefficients: `again`, 1 half-way, where the picture goes on from where the step began;
        `of_x` and `of_x0`, the factors of where it began and of x0.
        """
        middle = grid.log_snr[:-1] + np.diff(grid.log_snr) / 2
        between = grid_through(schedule, schedule.time_of(middle[np.isfinite(middle)]))
        # Each step's beginning, its middle, and at last where the last one ends.
        visited = Grid(
            *(
                np.insert(one.astype(np.float64), np.arange(1, len(other) + 1), other)
                for one, other in zip(
                    (grid.t, grid.alpha, grid.sigma), (between.t, between.alpha, between.sigma), strict=True
                )
            )
        )
        began = np.repeat(np.arange(len(grid)), 2)[: len(visited)]
        h = visited.log_snr[1:] - grid.log_snr[began]
        return plan_steps(
            visited.t[:-1],
            visited.t[1:],
            **levels(visited),
            again=np.arange(len(visited)) % 2,
            of_x=visited.sigma[1:] / grid.sigma[began],
            of_x0=-visited.alpha[1:] * np.expm1(-h),
        )

    def init(self, x: Float[Array, "b h w c"]) -> OriginCarry:
        """Returns the carry from which the first step starts."""
        return OriginCarry(x=x, origin=x)

    def step(self, carry: OriginCarry, info: StepInfo, denoiser: Denoiser) -> tuple[OriginCarry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction made on the way."""
        prediction = denoiser(carry.x, info)
        c = coefficients_of(info, carry.x.ndim)
        origin = jnp.where(c["again"] > 0, carry.origin, carry.x)
        return OriginCarry(x=c["of_x"] * origin + c["of_x0"] * prediction.x0, origin=origin), prediction
