"""DDPM: Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (https://arxiv.org/abs/2006.11239), on any grid.

Ancestral sampling by q(x_s | x_t, x0), the steps between levels respaced as by Nichol & Dhariwal 2021
(https://arxiv.org/abs/2102.09672, section 4). With the small variance it is DDIM with eta 1.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.core.errors import unknown
from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.samplers.base import Carry, OnGrid, coefficients_of, fresh_noise, levels, plan_steps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid

VARIANCES = ("small", "large", "learned")
LEAST = 1e-20


@dataclasses.dataclass(frozen=True)
class DDPM(OnGrid):
    """The ancestral sampler.

    Attributes:
      spacing: of the times.
      variance: of the fresh noise: "small", the posterior's (exact for data of one image); "large", beta (exact for
        standard normal data); "learned", predicted by the network between the two.

    Raises:
      UserError: the variance is none of these.
    """

    variance: str = "small"

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            raise unknown("variance", self.variance, VARIANCES)

    @property
    def needs_noise(self) -> bool:
        """Whether its steps sample noise."""
        return True

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid.

        Coefficients beside the common ones: `of_x0` and `of_x`, the factors in the posterior's mean (Ho et al., eq. 7);
        `log_small` and `log_large`, the logarithms of the variances; `noisy`, 0 in a step to zero noise.
        """
        abar, abar_next = grid.alpha[:-1] ** 2, grid.alpha[1:] ** 2
        beta = 1.0 - abar / abar_next
        small = beta * (1.0 - abar_next) / (1.0 - abar)
        return plan_steps(
            grid.t[:-1],
            grid.t[1:],
            **levels(grid),
            of_x0=beta * np.sqrt(abar_next) / (1.0 - abar),
            of_x=(1.0 - abar_next) * np.sqrt(abar / abar_next) / (1.0 - abar),
            log_small=np.log(np.maximum(small, LEAST)),
            log_large=np.log(beta),
            noisy=(grid.sigma[1:] > 0).astype(np.float64),
        )

    def init(self, x: Float[Array, "b h w c"]) -> Carry:
        """Returns the carry before the first step."""
        return Carry(x=x)

    def step(self, carry: Carry, info: StepInfo, denoiser: Denoiser) -> tuple[Carry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction of the step.

        Raises:
          ValueError: the step has no keys, or the variance is "learned" and the network predicts none.
        """
        prediction = denoiser(carry.x, info)
        c = coefficients_of(info, carry.x.ndim)
        logs = {"small": c["log_small"], "large": c["log_large"], "learned": prediction.log_variance}
        if logs[self.variance] is None:
            raise ValueError("the network predicts no variance; use DDPM's small or large one")
        noise = fresh_noise(info, carry.x.shape[1:], "DDPM")
        mean = c["of_x0"] * prediction.x0 + c["of_x"] * (c["alpha"] * prediction.x0 + c["sigma"] * prediction.eps)
        return Carry(x=mean + c["noisy"] * jnp.exp(0.5 * logs[self.variance]) * noise), prediction
