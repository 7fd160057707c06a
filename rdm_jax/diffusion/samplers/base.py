"""The interface of samplers, and the one loop that runs any of them: a `lax.scan` over steps planned ahead."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from rdm_jax.core.keys import normal
from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepHook, StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid, make_grid


@runtime_checkable
class Sampler(Protocol):
    """Generates an image from noise. Its carry is a dataclass and a pytree whose field `x` is the noisy image."""

    @property
    def needs_noise(self) -> bool:
        """Whether its steps sample noise, and need keys."""
        ...

    def plan(self, schedule: Schedule, num_steps: int) -> StepInfo:
        """Returns all steps, stacked, the noisiest first, without keys."""
        ...

    def grid(self, schedule: Schedule, num_steps: int) -> Grid:
        """Returns the levels that a number of steps visits."""
        ...

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the steps through the levels of a grid, or of a part of one: a run that starts in the middle."""
        ...

    def init(self, x: Float[Array, "b h w c"]) -> Any:
        """Returns the carry before the first step."""
        ...

    def step(self, carry: Any, info: StepInfo, denoiser: Denoiser) -> tuple[Any, Prediction]:
        """Returns the carry after one step, and the prediction in it."""
        ...


@dataclasses.dataclass(frozen=True)
class OnGrid(abc.ABC):
    """A sampler that visits the levels of a grid.

    Attributes:
      spacing: of the times, a name in `spacing.SPACINGS`.
    """

    spacing: str = "trailing"

    def plan(self, schedule: Schedule, num_steps: int) -> StepInfo:
        """Returns the steps through the grid of `spacing`, the noisiest first, without keys.

        Raises:
          UserError: the spacing is unknown, or the number of steps does not fit the schedule.
        """
        return self.plan_on(self.grid(schedule, num_steps), schedule)

    def grid(self, schedule: Schedule, num_steps: int) -> Grid:
        """Returns the grid of `spacing`; raises UserError as `plan` does."""
        return make_grid(schedule, num_steps, self.spacing)

    @property
    def needs_noise(self) -> bool:
        """Whether its steps sample noise."""
        return False

    @abc.abstractmethod
    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the steps through the levels of a grid."""


@flax.struct.dataclass
class Carry:
    """The noisy image between two steps, `x` [b, h, w, c], of samplers without other state."""

    x: Any  # as in StepInfo


def with_keys(steps: StepInfo, keys: Key[Array, " b"], first: int | Int[Array, ""] = 0) -> StepInfo:
    """Returns steps with a key for each step and image, [n, b], `fold_in(keys[i], step)`.

    Args:
      steps: a plan, or some steps of one.
      keys: of the images.
      first: the index in the plan of the first of the steps: a step has the same noise wherever a run starts.
    """
    fold = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(0, None)), in_axes=(None, 0))
    return dataclasses.replace(steps, keys=fold(keys, first + jnp.arange(num_steps(steps))))


def num_steps(steps: StepInfo) -> int:
    """Returns the number of steps in a plan, which may be more than requested."""
    return steps.t.shape[0]


def slice_steps(steps: StepInfo, start: int, stop: int) -> StepInfo:
    """Returns the steps [start, stop) of a plan, with their keys."""
    return jax.tree.map(lambda leaf: leaf[start:stop], steps)


def sample_chunk(
    sampler: Sampler, steps: StepInfo, carry: Any, denoiser: Denoiser, hooks: Sequence[StepHook] = ()
) -> tuple[Any, Float[Array, "b h w c"]]:
    """Runs some of a plan's steps as one scan, so that a caller can show progress between chunks.

    Consecutive chunks on slices of a plan equal one run over the whole plan.

    Args:
      sampler: of the plan.
      steps: n stacked steps, at least one.
      carry: from `sampler.init` or from the previous chunk.
      denoiser: the network under its condition and guides.
      hooks: applied in order to the image after each step.

    Returns:
      The carry after the last step, and the x0 [b, h, w, c] predicted in it (a preview).
    """

    def body(state: tuple[Any, Array], info: StepInfo) -> tuple[tuple[Any, Array], None]:
        carry, prediction = sampler.step(state[0], info, denoiser)
        for hook in hooks:
            carry = dataclasses.replace(carry, x=hook(carry.x, info, prediction))
        return (carry, prediction.x0), None

    state, _ = jax.lax.scan(body, (carry, jnp.zeros_like(carry.x)), steps)
    return state


def sample(
    sampler: Sampler,
    steps: StepInfo,
    x_T: Float[Array, "b h w c"],
    denoiser: Denoiser,
    hooks: Sequence[StepHook] = (),
) -> Float[Array, "b h w c"]:
    """Returns the image at the end of a plan, starting from x_T, as one scan.

    Args:
      sampler: of the plan.
      steps: from `sampler.plan`, and `with_keys` where the sampler or a hook samples noise.
      x_T: at the noise level of the first step; standard normal for a whole plan.
      denoiser: the network under its condition and guides.
      hooks: applied in order to the image after each step.
    """
    carry, _ = sample_chunk(sampler, steps, sampler.init(x_T), denoiser, hooks)
    return carry.x


def plan_steps(t: np.ndarray, t_next: np.ndarray, **coefficients: np.ndarray) -> StepInfo:
    """Returns the plan of n steps; numbers are computed in float64 and stored as float32.

    Args:
      t: [n] the time at which each step evaluates the network, in the order of the steps.
      t_next: [n] the time after each step.
      **coefficients: [n] `alpha`, `sigma`, `alpha_next`, `sigma_next`, and the sampler's own.
    """
    kind = jnp.int32 if np.issubdtype(t.dtype, np.integer) else jnp.float32
    return StepInfo(
        t=jnp.asarray(t, kind),
        t_next=jnp.asarray(t_next, kind),
        coefficients={name: jnp.asarray(value, jnp.float32) for name, value in coefficients.items()},
    )


def levels(grid: Grid) -> dict[str, np.ndarray]:
    """Returns the coefficients that every plan has, with one step for each step of a grid."""
    return {
        "alpha": grid.alpha[:-1],
        "sigma": grid.sigma[:-1],
        "alpha_next": grid.alpha[1:],
        "sigma_next": grid.sigma[1:],
    }


def coefficients_of(info: StepInfo, ndim: int) -> dict[str, Array]:
    """Returns a step's coefficients, shaped to be multiplied with images of `ndim` axes."""
    return {name: per_image(value, ndim) for name, value in info.coefficients.items()}


def fresh_noise(info: StepInfo, shape: tuple[int, ...], owner: str) -> Float[Array, "b ..."]:
    """Returns a step's standard normal noise `[b, *shape]`, each image's from its own key.

    Args:
      info: of the step; it has the keys.
      shape: of one image.
      owner: who needs noise, for the error.

    Raises:
      ValueError: the plan has no keys.
    """
    if info.keys is None:
        raise ValueError(f"{owner} samples noise: give the plan its keys, `with_keys(steps, keys)`")
    return normal(info.keys, shape)
