"""The contract of a distillation method."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rdm_jax.diffusion.denoiser import Denoiser, StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a loss under the conditions of its batch.

    Attributes:
      student: what is trained.
      teacher: frozen; guided where the student is to reproduce guidance.
      target: the moving average of the student, without a gradient; None where the method has none.
    """

    student: Denoiser
    teacher: Denoiser
    target: Denoiser | None = None


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """How a student learns from its teacher; the fields are the settings of a run's `method` section."""

    sampler: ClassVar[str]
    """The sampler of the student, a name in `diffusion.samplers.SAMPLERS`."""
    spacing: ClassVar[str]
    """The spacing of its timesteps, a name in `diffusion.spacing.SPACINGS`."""

    @property
    def target_decay(self) -> float | None:
        """The decay of the moving average that gives the target; None where the teacher alone gives it."""
        return None

    @property
    def any_steps(self) -> bool:
        """Whether the student may be sampled in any small number of steps, and not only in that of its stage."""
        return False

    @abc.abstractmethod
    def check(self, stages: Sequence[int]) -> None:
        """Raises UserError unless the numbers of steps of a run's stages fit the method and its settings."""

    @abc.abstractmethod
    def grid(self, schedule: Schedule, stages: Sequence[int]) -> Grid:
        """Returns the levels of noise that a run visits.

        Raises:
          UserError: the schedule has too few times.
        """

    @abc.abstractmethod
    def places(self, grid: Grid, steps: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Returns at how many places of the grid a stage's training examples begin; `steps` may be traced."""

    @abc.abstractmethod
    def losses(
        self,
        networks: Networks,
        grid: Grid,
        steps: int | Int[Array, ""],
        place: Int[Array, " b"],
        x0: Float[Array, "b h w c"],
        noise: Float[Array, "b h w c"],
    ) -> Float[Array, " b"]:
        """Returns each example's loss.

        Args:
          networks: under the examples' conditions.
          grid: from `grid`.
          steps: the number of steps of the stage's student; may be traced.
          place: where each example begins, in [0, places); 0 is the noisiest.
          x0: the data.
          noise: standard normal.
        """


def between(grid: Grid, begin: Int[Array, "*steps b"], end: Int[Array, "*steps b"]) -> StepInfo:
    """Returns steps from some levels of a grid to others, one for each example, without keys; `steps` are stacked."""
    kind = jnp.int32 if grid.t.dtype.kind == "i" else jnp.float32
    t, alpha, sigma = (
        jnp.asarray(grid.t, kind),
        jnp.asarray(grid.alpha, jnp.float32),
        jnp.asarray(grid.sigma, jnp.float32),
    )
    coefficients = {
        "alpha": alpha[begin],
        "sigma": sigma[begin],
        "alpha_next": alpha[end],
        "sigma_next": sigma[end],
    }
    return StepInfo(t[begin], t[end], coefficients)


def noised(x0: Float[Array, "b h w c"], noise: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, "b h w c"]:
    """Returns z = alpha x0 + sigma noise at the begin of a step."""
    alpha, sigma = (per_image(info.coefficients[name], x0.ndim) for name in ("alpha", "sigma"))
    return alpha * x0 + sigma * noise


def mean_per_image(values: Any) -> Float[Array, " b"]:
    """Returns the mean of each example's values."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def frozen(values: Any) -> Any:
    """Returns values without a gradient."""
    return jax.lax.stop_gradient(values)
