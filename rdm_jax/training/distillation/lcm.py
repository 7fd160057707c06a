"""Latent consistency distillation in its own form (Luo et al. 2023, https://arxiv.org/abs/2310.04378).

It differs from `consistency` in the boundary condition, which is that of `diffusion.consistency`, and in the last
level, which is the schedule's least noisy time. The teacher's steps are DDIM's, as there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from rdm_jax.diffusion.consistency import boundary_scalings
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.parameterization import Prediction, per_image
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid, grid_through
from rdm_jax.training.distillation.consistency import Consistency


@dataclasses.dataclass(frozen=True)
class LCM(Consistency):
    """Consistency distillation with c_skip and c_out, as released models are trained."""

    def grid(self, schedule: Schedule, stages: Sequence[int]) -> Grid:
        """Returns LCM's 50 points and the schedule's least noisy time."""
        return grid_through(schedule, np.append(super().grid(schedule, stages).t[:-1], 0))

    def function(self, z: Float[Array, "b h w c"], prediction: Prediction, info: StepInfo) -> Float[Array, "b h w c"]:
        """Returns c_skip z + c_out x0."""
        skip, out = (per_image(one, z.ndim) for one in boundary_scalings(info.t.astype(np.float32)))
        return skip * z + out * prediction.x0
