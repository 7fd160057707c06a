"""Heun's method on the probability flow, with churn: Karras et al. 2022 (https://arxiv.org/abs/2206.00364), alg. 2.

A step asks the network where it begins and where Euler's method would end; a plan holds both, so that each of its steps
asks once and one scan runs them all. The step to no noise is Euler's alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.samplers.base import coefficients_of, plan_steps
from rdm_jax.diffusion.samplers.euler import Churning
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@flax.struct.dataclass
class HeunCarry:
    """What a step starts from.

    Attributes:
      x: [b, h, w, c] where the network is asked.
      x0: [b, h, w, c] what it said where the step began.
      eps: [b, h, w, c] the noise that goes with it.
    """

    x: Any  # as in StepInfo
    x0: Any
    eps: Any


@dataclasses.dataclass(frozen=True)
class Heun(Churning):
    """Heun's method; n steps ask the network 2 n times, or 2 n - 1 where the last goes to no noise.

    It follows the flow in sigma / alpha, so a step must not divide that by a hundred, as the first "trailing" one does
    on a cosine schedule: Karras et al.'s spacing is its own.
    """

    spacing: str = "karras"

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the steps through a grid, two for each of it.

        Beside the common coefficients: `corrects`, 1 where Euler's end is asked about; `began` and `asked`, the factors
        of the noise at the step's beginning and of what is asked now.
        """
        first = self.churned(grid, schedule)
        ratio, ratio_next = first["sigma"] / first["alpha"], grid.sigma[1:] / grid.alpha[1:]
        zeros, ones = np.zeros(len(grid)), np.ones(len(grid))
        euler = {**first, "corrects": zeros, "began": zeros, "asked": grid.sigma[1:]}
        second = {
            "t": grid.t[1:],
            "alpha": grid.alpha[1:],
            "sigma": grid.sigma[1:],
            "raised": zeros,
            "alpha_from": grid.alpha[1:],
            "corrects": ones,
            "began": grid.alpha[1:] * (ratio + ratio_next) / 2,
            "asked": grid.alpha[1:] * (ratio_next - ratio) / 2,
        }
        both = {name: np.stack([euler[name], second[name]], axis=1).reshape(-1) for name in euler}
        kept = slice(None, -1) if grid.ends_without_noise else slice(None)
        steps = {name: values[kept] for name, values in both.items()}
        ends = {"alpha_next": np.repeat(grid.alpha[1:], 2)[kept], "sigma_next": np.repeat(grid.sigma[1:], 2)[kept]}
        return plan_steps(steps.pop("t"), np.repeat(grid.t[1:], 2)[kept], **steps, **ends)

    def init(self, x: Float[Array, "b h w c"]) -> HeunCarry:
        """Returns the carry from which the first step starts."""
        return HeunCarry(x=x, x0=jnp.zeros_like(x), eps=jnp.zeros_like(x))

    def step(self, carry: HeunCarry, info: StepInfo, denoiser: Denoiser) -> tuple[HeunCarry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction made on the way.

        Raises:
          ValueError: there is churn and the step has no keys.
        """
        prediction = denoiser(self.stirred(carry.x, info), info)
        c = coefficients_of(info, carry.x.ndim)
        corrects = c["corrects"] > 0
        x0, eps = (jnp.where(corrects, carry.x0, prediction.x0), jnp.where(corrects, carry.eps, prediction.eps))
        x = c["alpha_next"] * x0 + c["began"] * eps + c["asked"] * prediction.eps
        return HeunCarry(x=x, x0=x0, eps=eps), prediction
