"""PLMS: Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models" (https://arxiv.org/abs/2202.09778), as in
CompVis.

Adams-Bashforth on eps (eq. 12) with DDIM's transfer (eq. 11). The first step is a pseudo improved Euler step, which
evaluates the network at its start and its end. A plan has two entries for it, so that every entry evaluates the network
once and one scan runs them all. It divides by alpha at the start of a step: grids that start with almost no signal,
such as "trailing" of a cosine schedule, do not suit it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.diffusion.samplers.base import OnGrid, plan_steps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid

ADAMS_BASHFORTH = np.array([[3, -1, 0, 0], [23, -16, 5, 0], [55, -59, 37, -9]]) / np.array([[2], [12], [24]])
"""Weights of the newest eps and of the three before it, in the second, the third and all later steps."""


@flax.struct.dataclass
class Carry:
    """The state between two evaluations.

    Attributes:
      x: [b, h, w, c] the input of the next evaluation.
      origin: [b, h, w, c] the noisy image at the start of the last step, where the second half of the first step
        starts again.
      past: [3, b, h, w, c] the last three eps, newest first.
    """

    x: Any  # as in StepInfo
    origin: Any
    past: Any


@dataclasses.dataclass(frozen=True)
class PLMS(OnGrid):
    """The PLMS sampler; it needs no noise, and n steps evaluate the network n + 1 times.

    Attributes:
      spacing: of the times.
    """

    spacing: str = "compvis"

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid, with one entry more than steps.

        Coefficients beside the common ones: `alpha_from` and `sigma_from` at the start of the step; `again`, 1 where it
        starts where the last one started, else 0; `newest` and `past_0` to `past_2`, the weights of eps.
        """
        places = np.arange(len(grid))
        # The first step evaluates the network twice, at its start and its end; impossible where that has no noise.
        half_way = len(grid) > 1 or not grid.ends_without_noise
        evaluated, starts, ends = (
            np.insert(where, 1, first) if half_way else where
            for where, first in ((places, 1), (places, 0), (places + 1, 1))
        )
        euler = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0]])
        steady = np.repeat(ADAMS_BASHFORTH[-1:], max(len(grid) - 3, 0), 0)
        weights = np.concatenate([euler, ADAMS_BASHFORTH[:2], steady])[: len(evaluated)]
        return plan_steps(
            grid.t[evaluated],
            grid.t[ends],
            alpha=grid.alpha[evaluated],
            sigma=grid.sigma[evaluated],
            alpha_next=grid.alpha[ends],
            sigma_next=grid.sigma[ends],
            alpha_from=grid.alpha[starts],
            sigma_from=grid.sigma[starts],
            again=np.arange(len(evaluated)) == 1,
            newest=weights[:, 0],
            past_0=weights[:, 1],
            past_1=weights[:, 2],
            past_2=weights[:, 3],
        )

    def init(self, x: Float[Array, "b h w c"]) -> Carry:
        """Returns the carry before the first step."""
        return Carry(x=x, origin=x, past=jnp.zeros((3, *x.shape), x.dtype))

    def step(self, carry: Carry, info: StepInfo, denoiser: Denoiser) -> tuple[Carry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction at the start of the step from the mixed eps."""
        c = {name: per_image(value, carry.x.ndim) for name, value in info.coefficients.items()}
        prediction = denoiser(carry.x, info)
        origin = jnp.where(c["again"] > 0, carry.origin, carry.x)
        eps = c["newest"] * prediction.eps + sum(c[f"past_{i}"] * carry.past[i] for i in range(3))
        x0 = (origin - c["sigma_from"] * eps) / c["alpha_from"]
        # The second eps of the first step serves that step alone; later steps use the one at its start.
        past = jnp.where(c["again"] > 0, carry.past, jnp.concatenate([prediction.eps[None], carry.past[:2]]))
        x = c["alpha_next"] * x0 + c["sigma_next"] * eps
        return Carry(x=x, origin=origin, past=past), dataclasses.replace(prediction, x0=x0, eps=eps)
