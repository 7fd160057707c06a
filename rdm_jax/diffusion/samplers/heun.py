"""Heun's method on the probability flow, with churn: Karras et al. 2022 (https://arxiv.org/abs/2206.00364), alg. 2.

A step evaluates the network at its start and at the end of Euler's step. A plan has two entries for it, with one
evaluation each, so that one scan runs them all. The step to zero noise is Euler's.
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
    """The state between two evaluations.

    Attributes:
      x: [b, h, w, c] the input of the next evaluation.
      x0: [b, h, w, c] predicted at the start of the step.
      eps: [b, h, w, c] predicted at the start of the step.
    """

    x: Any  # as in StepInfo
    x0: Any
    eps: Any


@dataclasses.dataclass(frozen=True)
class Heun(Churning):
    """Heun's method; n steps evaluate the network 2 n times, or 2 n - 1 where the last goes to zero noise.

    It integrates in sigma / alpha, so a step must not divide that by a hundred, as the first "trailing" step of a
    cosine schedule does: its default is the spacing of Karras et al.
    """

    spacing: str = "karras"

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid, with two entries for each.

        Coefficients beside the common ones: `corrects`, 1 in the second entry; `of_first_eps` and `of_eps`, the factors
        of eps at the start of the step and in this entry.
        """
        first = self.churn_coefficients(grid, schedule)
        ratio, ratio_next = first["sigma"] / first["alpha"], grid.sigma[1:] / grid.alpha[1:]
        zeros, ones = np.zeros(len(grid)), np.ones(len(grid))
        euler = {**first, "corrects": zeros, "of_first_eps": zeros, "of_eps": grid.sigma[1:]}
        second = {
            "t": grid.t[1:],
            "alpha": grid.alpha[1:],
            "sigma": grid.sigma[1:],
            "churn_sigma": zeros,
            "alpha_from": grid.alpha[1:],
            "corrects": ones,
            "of_first_eps": grid.alpha[1:] * (ratio + ratio_next) / 2,
            "of_eps": grid.alpha[1:] * (ratio_next - ratio) / 2,
        }
        both = {name: np.stack([euler[name], second[name]], axis=1).reshape(-1) for name in euler}
        kept = slice(None, -1) if grid.ends_without_noise else slice(None)
        steps = {name: values[kept] for name, values in both.items()}
        ends = {"alpha_next": np.repeat(grid.alpha[1:], 2)[kept], "sigma_next": np.repeat(grid.sigma[1:], 2)[kept]}
        return plan_steps(steps.pop("t"), np.repeat(grid.t[1:], 2)[kept], **steps, **ends)

    def init(self, x: Float[Array, "b h w c"]) -> HeunCarry:
        """Returns the carry before the first step."""
        return HeunCarry(x=x, x0=jnp.zeros_like(x), eps=jnp.zeros_like(x))

    def step(self, carry: HeunCarry, info: StepInfo, denoiser: Denoiser) -> tuple[HeunCarry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction of the step.

        Raises:
          ValueError: there is churn and the step has no keys.
        """
        prediction = denoiser(self.add_churn(carry.x, info), info)
        c = coefficients_of(info, carry.x.ndim)
        corrects = c["corrects"] > 0
        x0, eps = (jnp.where(corrects, carry.x0, prediction.x0), jnp.where(corrects, carry.eps, prediction.eps))
        x = c["alpha_next"] * x0 + c["of_first_eps"] * eps + c["of_eps"] * prediction.eps
        return HeunCarry(x=x, x0=x0, eps=eps), prediction
