"""PLMS: Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models" (https://arxiv.org/abs/2202.09778), as CompVis
runs it.

Adams-Bashforth on eps (eq. 12) with DDIM's transfer (eq. 11). The first step is a pseudo improved Euler step: it asks
the network where it starts and where it would end. A plan holds it as two steps, so that every step asks the network
once and one scan runs them all. It divides by the signal's factor where a step begins: a grid that begins with next to
no signal, as "trailing" on a cosine schedule, is not for it.
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
    """What a step starts from.

    Attributes:
      x: [b, h, w, c] where the network is asked.
      origin: [b, h, w, c] where the last step began; the second half of the first step begins there again.
      past: the last three eps, the newest first, [3, b, h, w, c].
    """

    x: Any  # as in StepInfo
    origin: Any
    past: Any


@dataclasses.dataclass(frozen=True)
class PLMS(OnGrid):
    """The PLMS sampler; it draws no noise, and n steps ask the network n + 1 times.

    Attributes:
      spacing: which times it visits.
    """

    spacing: str = "compvis"

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the steps through a grid, one more than it has.

        Beside the common coefficients: `alpha_from` and `sigma_from` of where the step begins; `again`, 1 where it
        begins where the last one began and 0 elsewhere; `newest` and `past_0` to `past_2`, the weights of eps.
        """
        places = np.arange(len(grid))
        # The first step asks twice: where it begins, and where it ends. Without noise nothing can be asked.
        half_way = len(grid) > 1 or not grid.ends_without_noise
        asked, began, ends = (
            np.insert(where, 1, first) if half_way else where
            for where, first in ((places, 1), (places, 0), (places + 1, 1))
        )
        euler = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0]])
        steady = np.repeat(ADAMS_BASHFORTH[-1:], max(len(grid) - 3, 0), 0)
        weights = np.concatenate([euler, ADAMS_BASHFORTH[:2], steady])[: len(asked)]
        return plan_steps(
            grid.t[asked],
            grid.t[ends],
            alpha=grid.alpha[asked],
            sigma=grid.sigma[asked],
            alpha_next=grid.alpha[ends],
            sigma_next=grid.sigma[ends],
            alpha_from=grid.alpha[began],
            sigma_from=grid.sigma[began],
            again=np.arange(len(asked)) == 1,
            newest=weights[:, 0],
            past_0=weights[:, 1],
            past_1=weights[:, 2],
            past_2=weights[:, 3],
        )

    def init(self, x: Float[Array, "b h w c"]) -> Carry:
        """Returns the carry from which the first step starts."""
        return Carry(x=x, origin=x, past=jnp.zeros((3, *x.shape), x.dtype))

    def step(self, carry: Carry, info: StepInfo, denoiser: Denoiser) -> tuple[Carry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction that the mixed eps makes of where the step began."""
        c = {name: per_image(value, carry.x.ndim) for name, value in info.coefficients.items()}
        asked = denoiser(carry.x, info)
        origin = jnp.where(c["again"] > 0, carry.origin, carry.x)
        eps = c["newest"] * asked.eps + sum(c[f"past_{i}"] * carry.past[i] for i in range(3))
        x0 = (origin - c["sigma_from"] * eps) / c["alpha_from"]
        # What the network said half-way is for the first step alone; later steps see what it said at its start.
        past = jnp.where(c["again"] > 0, carry.past, jnp.concatenate([asked.eps[None], carry.past[:2]]))
        x = c["alpha_next"] * x0 + c["sigma_next"] * eps
        return Carry(x=x, origin=origin, past=past), dataclasses.replace(asked, x0=x0, eps=eps)
