"""Consistency distillation in angles (Song et al. 2023, https://arxiv.org/abs/2303.01469; over latents, with guidance,
Luo et al. 2023, https://arxiv.org/abs/2310.04378).

The predicted x0 = cos(phi) z - sin(phi) v is the identity at phi = 0, so that it needs no further scalings to be a
consistency function. It is trained to be the same at two neighboring levels of one path of the teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.parameterization import Prediction, per_image
from rdm_jax.diffusion.rotation import rotate
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import LCM_POINTS, Grid, make_grid
from rdm_jax.training.distillation.base import Method, Networks, between, frozen, mean_per_image, noised


@dataclasses.dataclass(frozen=True)
class Consistency(Method):
    """One network for any small number of steps.

    Attributes:
      decay: of the moving average of the student that gives the target, in [0, 1); 0 is the student itself.
      huber: c of the loss sqrt(d^2 + c^2) - c; 0 is the squared error.

    Raises:
      UserError: a setting is out of range.
    """

    decay: float = 0.95
    huber: float = 0.001

    sampler: ClassVar[str] = "lcm"
    spacing: ClassVar[str] = "lcm"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UserError(f"method.decay={self.decay} is out of range; give a number from 0 to below 1")
        if not 0 <= self.huber < float("inf"):
            raise UserError(f"method.huber={self.huber} is out of range; give 0 (the squared error) or more")

    @property
    def target_decay(self) -> float | None:
        """The decay of the moving average that gives the target."""
        return self.decay

    @property
    def any_steps(self) -> bool:
        """Consistency models take any small number of steps."""
        return True

    def check(self, stages: Sequence[int]) -> None:
        """Raises UserError unless there is one stage, whose number of steps is the default of sampling."""
        if len(stages) != 1 or stages[0] > LCM_POINTS:
            raise UserError(
                f"stages={tuple(stages)}: consistency distillation trains one network for all numbers of steps; give "
                f"one stage, the number of steps by default, up to {LCM_POINTS}"
            )

    def grid(self, schedule: Schedule, stages: Sequence[int]) -> Grid:
        """Returns the trailing levels of LCM's 50 points and the level without noise."""
        return make_grid(schedule, LCM_POINTS, "trailing")

    def places(self, grid: Grid, steps: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Returns the number of points."""
        return len(grid)

    def losses(
        self,
        networks: Networks,
        grid: Grid,
        steps: int | Int[Array, ""],
        place: Int[Array, " b"],
        x0: Float[Array, "b h w c"],
        noise: Float[Array, "b h w c"],
    ) -> Float[Array, " b"]:
        """Returns the distance of the student's image to its average's, one step of the teacher on."""
        assert networks.target is not None
        info = between(grid, place, place + 1)
        z = noised(x0, noise, info)
        found = self.function(z, networks.student(z, info), info)
        z_next = rotate(networks.teacher(z, info), info)
        info_next = between(grid, place + 1, place + 1)
        target = self.function(z_next, networks.target(z_next, info_next), info_next)
        return mean_per_image(self._distance(found - frozen(target)))

    def function(self, z: Float[Array, "b h w c"], prediction: Prediction, info: StepInfo) -> Float[Array, "b h w c"]:
        """Returns the consistency function of a prediction at the begin of a step: x0, and z where it has no noise."""
        return jnp.where(per_image(info.coefficients["sigma"], z.ndim) > 0, prediction.x0, z)

    def _distance(self, error: Array) -> Array:
        if not self.huber:
            return jnp.square(error)
        return jnp.sqrt(jnp.square(error) + self.huber**2) - self.huber
