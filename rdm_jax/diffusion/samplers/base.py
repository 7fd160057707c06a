"""What a sampler is, and the one loop that runs any of them: a `lax.scan` over steps that were planned ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepHook, StepInfo
from rdm_jax.diffusion.schedule import Schedule


@runtime_checkable
class Sampler(Protocol):
    """A way from noise to a picture. Its carry is a dataclass and a pytree, and names its picture `x`."""

    def plan(self, schedule: Schedule, num_steps: int) -> StepInfo:
        """Returns all steps, stacked, the noisiest first, without keys."""
        ...

    def init(self, x: Float[Array, "b h w c"]) -> Any:
        """Returns the carry from which the first step starts."""
        ...

    def step(self, carry: Any, info: StepInfo, denoiser: Denoiser) -> tuple[Any, Prediction]:
        """Returns the carry after one step, and what the denoiser said in it."""
        ...


def with_keys(steps: StepInfo, keys: Key[Array, " b"]) -> StepInfo:
    """Returns the plan with a key for each step and image, [n, b], `fold_in(keys[i], step)`.

    To start in the middle of a plan, give it its keys first and then slice it: a step keeps its noise.
    """
    fold = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(0, None)), in_axes=(None, 0))
    return dataclasses.replace(steps, keys=fold(keys, jnp.arange(num_steps(steps))))


def num_steps(steps: StepInfo) -> int:
    """Returns the number of steps in a plan, which may be more than were asked for."""
    return steps.t.shape[0]


def slice_steps(steps: StepInfo, start: int, stop: int) -> StepInfo:
    """Returns the steps [start, stop) of a plan, with their keys."""
    return jax.tree.map(lambda leaf: leaf[start:stop], steps)


def sample_chunk(
    sampler: Sampler, steps: StepInfo, carry: Any, denoiser: Denoiser, hooks: Sequence[StepHook] = ()
) -> tuple[Any, Float[Array, "b h w c"]]:
    """Runs some of a plan's steps as one scan, so that a caller can show progress between chunks.

    Chunks that follow one another on slices of a plan do what one run over the whole plan does.

    Args:
      sampler: what made the plan.
      steps: n stacked steps, at least one.
      carry: from `sampler.init` or from the chunk before.
      denoiser: the network under its condition and guides.
      hooks: applied in order to the picture after each step.

    Returns:
      The carry after the last step, and the x0 [b, h, w, c] that was predicted in it (a preview).
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
    """Returns the picture at the end of a plan, starting from x_T, as one scan.

    Args:
      sampler: what made the plan.
      steps: from `sampler.plan`, and `with_keys` where the sampler or a hook draws noise.
      x_T: at the noise level of the first step; standard normal for a whole plan.
      denoiser: the network under its condition and guides.
      hooks: applied in order to the picture after each step.
    """
    carry, _ = sample_chunk(sampler, steps, sampler.init(x_T), denoiser, hooks)
    return carry.x


def uniform_timesteps(num_timesteps: int, num_steps: int) -> Int[np.ndarray, " n"]:
    """Returns CompVis's evenly spaced times 1, 1 + c, 1 + 2c, ... below T, with c = T // num_steps, ascending.

    Where `num_steps` does not divide T there are more than were asked for (31 for 30 of 1000).

    Args:
      num_timesteps: T, the length of the schedule.
      num_steps: how many are wanted, in [1, T].

    Raises:
      UserError: `num_steps` is out of range, or the last time would be T, which the schedule does not have; the
        nearest numbers that work are named.
    """
    if not _steps_fit(num_timesteps, num_steps):
        below = next((n for n in range(min(num_steps, num_timesteps), 0, -1) if _steps_fit(num_timesteps, n)), None)
        above = next((n for n in range(max(num_steps, 1), num_timesteps) if _steps_fit(num_timesteps, n)), None)
        near = " or ".join(str(n) for n in (below, above) if n is not None) or "a longer schedule"
        raise UserError(f"{num_steps} sampling steps do not fit a schedule of {num_timesteps} timesteps; use {near}")
    return np.arange(0, num_timesteps, num_timesteps // num_steps) + 1


def _steps_fit(num_timesteps: int, num_steps: int) -> bool:
    """Whether the times lie inside the schedule: the last is T where the stride divides T - 1."""
    return 1 <= num_steps <= num_timesteps and (num_timesteps - 1) % (num_timesteps // num_steps) != 0


def plan_steps(
    schedule: Schedule, t: Int[np.ndarray, " n"], t_next: Int[np.ndarray, " n"], **extra: np.ndarray
) -> StepInfo:
    """Returns the plan through the given times, with the coefficients that every plan has and the sampler's own.

    Args:
      schedule: the schedule of T times.
      t: each step's time in the order of the steps, in [0, T).
      t_next: the time after each step, in [0, T).
      **extra: [n] further coefficients; computed in float64 and stored as float32 like the others.
    """
    coefficients = {
        "alpha": schedule.signal[t],
        "sigma": schedule.noise[t],
        "alpha_next": schedule.signal[t_next],
        "sigma_next": schedule.noise[t_next],
        **extra,
    }
    return StepInfo(
        t=jnp.asarray(t, jnp.int32),
        t_next=jnp.asarray(t_next, jnp.int32),
        coefficients={name: jnp.asarray(value, jnp.float32) for name, value in coefficients.items()},
    )
