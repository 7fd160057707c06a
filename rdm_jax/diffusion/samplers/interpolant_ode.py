"""The probability flow along a path: SiT (https://arxiv.org/abs/2401.08740), section 2.3, with fixed steps.

Euler's method on the linear path is DDIM on the same levels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64

from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.interpolants import path_of
from rdm_jax.diffusion.samplers.interpolant import METHODS, AlongPath, entries, plan_of
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@dataclasses.dataclass(frozen=True)
class InterpolantODE(AlongPath):
    """Integrates the velocity; n steps evaluate the network S n times, where S is 1 to 6 by the method."""

    def times(self, first: float, num_steps: int) -> Float64[np.ndarray, " levels"]:
        """Returns n + 1 even times up to the image, or to the margin before it."""
        return np.linspace(first, 1.0 - self.margin, num_steps + 1)

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid, with an entry for each stage (`interpolant.entries`)."""
        path, method = path_of(self.path), METHODS[self.method]
        return plan_of(self, entries(schedule, path, path.time_of(grid.log_snr), method, len(method.nodes)))
