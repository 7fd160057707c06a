"""Latent consistency distillation in its own form (Luo et al. 2023, https://arxiv.org/abs/2310.04378).

It differs from `consistency` in the boundary condition, f(z, t) = c_skip(t) z + c_out(t) x0(z, t) with f(z, 0) = z
(section 4.1), and in the last level, which is the least noisy time of the schedule. The teacher takes DDIM steps too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.parameterization import Prediction, per_image
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid, grid_through
from rdm_jax.training.distillation.consistency import Consistency

SIGMA_DATA = 0.5
TIME_SCALE = 10.0


@dataclasses.dataclass(frozen=True)
class LCM(Consistency):
    """Consistency distillation with c_skip and c_out, as released models are trained."""

    def grid(self, schedule: Schedule, stages: Sequence[int]) -> Grid:
        """Returns LCM's 50 points and the schedule's least noisy time."""
        return grid_through(schedule, np.append(super().grid(schedule, stages).t[:-1], 0))

    def function(self, z: Float[Array, "b h w c"], prediction: Prediction, info: StepInfo) -> Float[Array, "b h w c"]:
        """Returns c_skip z + c_out x0."""
        skip, out = (per_image(one, z.ndim) for one in boundary_scalings(info.t.astype(jnp.float32)))
        return skip * z + out * prediction.x0


def boundary_scalings(t: Float[Array, " b"]) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Returns (c_skip, c_out) at times of a schedule."""
    square = (TIME_SCALE * t) ** 2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / square, TIME_SCALE * t / jnp.sqrt(square)
