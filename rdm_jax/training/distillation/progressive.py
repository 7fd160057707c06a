"""Progressive distillation: one step of the student is two of its teacher's (Salimans & Ho 2022,
https://arxiv.org/abs/2202.00512; with guidance, Meng et al. 2023, https://arxiv.org/abs/2210.03142).

In angles, where a deterministic step is a rotation: two rotations by the teacher lead from z to z'', and the student's
target is the velocity with which one rotation leads there, v = (cos(delta) z - z'') / sin(delta). The loss is the mean
squared error of v, which is SNR + 1 times that of x0 (section 4 of the paper), for any parameterization of the student.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Denoiser, StepInfo
from rdm_jax.diffusion.rotation import rotate, velocity, velocity_to
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid, make_grid
from rdm_jax.training.distillation.base import Method, Networks, between, frozen, mean_per_image, noised


@dataclasses.dataclass(frozen=True)
class Progressive(Method):
    """Halves the number of steps from stage to stage; the first teacher takes twice the steps of the first stage."""

    sampler: ClassVar[str] = "ddim"
    spacing: ClassVar[str] = "trailing"

    def check(self, stages: Sequence[int]) -> None:
        """Raises UserError unless every stage has half the steps of the one before."""
        for before, after in itertools.pairwise(stages):
            if before != 2 * after:
                raise UserError(
                    f"stages={tuple(stages)} do not halve: after {before} steps come {before / 2:g}, not {after}; give "
                    "each stage half the steps of the one before, as (8, 4, 2, 1)"
                )

    def grid(self, schedule: Schedule, stages: Sequence[int]) -> Grid:
        """Returns the trailing levels of the first teacher; those of later stages are among them."""
        return make_grid(schedule, 2 * stages[0], self.spacing)

    def places(self, grid: Grid, steps: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Returns the number of steps."""
        return steps

    def losses(
        self,
        networks: Networks,
        grid: Grid,
        steps: int | Int[Array, ""],
        place: Int[Array, " b"],
        x0: Float[Array, "b h w c"],
        noise: Float[Array, "b h w c"],
    ) -> Float[Array, " b"]:
        """Returns the squared error of the student's velocity (see `Method.losses`)."""
        stride = len(grid) // (2 * steps)  # levels of the grid in one step of the stage's teacher
        levels = stride * (2 * place[None] + jnp.arange(3)[:, None])
        whole, halves = between(grid, levels[0], levels[2]), between(grid, levels[:2], levels[1:])
        z = noised(x0, noise, whole)
        target = velocity_to(z, two_steps(networks.teacher, halves, z), whole)
        error = velocity(networks.student(z, whole), whole) - frozen(target)
        return mean_per_image(jnp.square(error))


def two_steps(teacher: Denoiser, halves: StepInfo, z: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns the latent after the deterministic steps of a teacher; `halves` has a leading axis of steps."""

    def step(z: Array, info: StepInfo) -> tuple[Array, None]:
        """Returns the latent after one step."""
        return rotate(teacher(z, info), info), None

    return jax.lax.scan(step, z, halves)[0]
