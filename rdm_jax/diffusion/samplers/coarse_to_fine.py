"""Any sampler, run once for each scale of a latent: all steps on the coarse one, then all steps on the fine one.

Fan et al. 2022 (https://arxiv.org/abs/2208.13753, section 3.3, and the program). A latent has the channels of the
coarse scale and then those of the fine one, at the fine size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Apply, Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.samplers.base import Sampler, num_steps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@dataclasses.dataclass(frozen=True)
class CoarseToFine:
    """Runs a sampler on the coarse scale, and then on the fine one beside the result.

    While one scale is denoised the other stays as it is: the fine one is its initial noise, and the coarse one is the
    result, constant in squares of 2x2. A plan is made by `join_stages`; its coefficients have `fine`, 1
    in the steps of the fine stage, and `begins`, 1 in the first one of these.

    Attributes:
      sampler: of both stages.
    """

    sampler: Sampler

    @property
    def needs_noise(self) -> bool:
        """Whether its steps sample noise."""
        return self.sampler.needs_noise

    def plan(self, schedule: Schedule, num_steps: int) -> StepInfo:
        """Returns the steps of both stages, as many in each."""
        return self.plan_on(self.grid(schedule, num_steps), schedule)

    def grid(self, schedule: Schedule, num_steps: int) -> Grid:
        """Returns the levels that each stage visits."""
        return self.sampler.grid(schedule, num_steps)

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the steps of both stages through the levels of a grid."""
        return join_stages([self.sampler.plan_on(grid, schedule)] * 2)

    def init(self, x: Float[Array, "b h w c"]) -> Any:
        """Returns the carry before the first step, that of the sampler."""
        return self.sampler.init(x)

    def step(self, carry: Any, info: StepInfo, denoiser: Denoiser) -> tuple[Any, Prediction]:
        """Returns the carry after one step of a stage, and the prediction, whose x0 is that of the whole latent."""
        fine, begins = info.coefficients["fine"], info.coefficients["begins"]
        fresh = self.sampler.init(_with_coarse_result(carry.x))
        carry = jax.tree.map(lambda new, old: jnp.where(begins > 0, new, old), fresh, carry)
        active = (jnp.arange(carry.x.shape[-1]) >= carry.x.shape[-1] // 2) == (fine > 0)
        active = active[None, None, None, :]
        after, prediction = self.sampler.step(carry, info, denoiser)
        # Of the scale that waits nothing is predicted: the fine one is unknown yet, the coarse one is as it is.
        x0 = jnp.where(active, prediction.x0, jnp.where(fine > 0, carry.x, 0.0))
        x = jnp.where(active, after.x, carry.x)
        return dataclasses.replace(after, x=x), dataclasses.replace(prediction, x0=x0)


def join_stages(stages: Sequence[StepInfo]) -> StepInfo:
    """Returns one plan of those of all stages, the coarsest first, each step with its stage."""

    def marked(stage: int, steps: StepInfo) -> StepInfo:
        """Returns the plan of a stage with its entries."""
        numbers = np.arange(num_steps(steps))
        own = {
            "fine": jnp.full(len(numbers), stage, jnp.float32),
            "begins": jnp.asarray((numbers == 0) & (stage > 0), jnp.float32),
        }
        return dataclasses.replace(steps, coefficients={**steps.coefficients, **own})

    plans = [marked(stage, steps) for stage, steps in enumerate(stages)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *plans)


def stage_network(apply: Apply, info: StepInfo) -> Apply:
    """Returns the network of whole latents that evaluates the one of a single scale for the stage of a step.

    The scale that waits has an output of zeros.

    Args:
      apply: the network; in the fine stage the condition's channels are the coarse scale.
      info: the step.
    """

    def whole(x: Float[Array, "b h w c"], t: Array, condition: Any) -> Float[Array, "b h w c"]:
        """Returns the output at the place of the stage's scale."""
        coarse, fine = jnp.split(x, 2, axis=-1)

        def first() -> Array:
            output = apply(coarse, t, condition)
            return jnp.concatenate([output, jnp.zeros_like(output)], axis=-1)

        def second() -> Array:
            output = apply(fine, t, dataclasses.replace(condition, channels=coarse))
            return jnp.concatenate([jnp.zeros_like(output), output], axis=-1)

        return jax.lax.cond(info.coefficients["fine"] > 0, second, first)

    return whole


def _with_coarse_result(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns a latent whose coarse scale is constant in squares of 2x2, each of their mean."""
    coarse, fine = jnp.split(x, 2, axis=-1)
    b, h, w, c = coarse.shape
    means = coarse.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    return jnp.concatenate([jnp.repeat(jnp.repeat(means, 2, axis=1), 2, axis=2), fine], axis=-1)
