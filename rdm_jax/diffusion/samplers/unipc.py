"""UniPC: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework" (https://arxiv.org/abs/2302.04867).

The second-order method on x0 with B2(h) = e^h - 1 (their UniPC-2): the evaluation at the end of a step first corrects
that end, at no extra cost, and then predicts the next one. Corrector and predictor are linear in the predicted x0, so
their weights are planned ahead.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.samplers.base import OnGrid, coefficients_of, levels, plan_steps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


@flax.struct.dataclass
class UniPCCarry:
    """The state between two steps.

    Attributes:
      x: [b, h, w, c] the input of the next evaluation, from the predictor.
      origin: [b, h, w, c] the start of the last step, from the corrector.
      past: [2, b, h, w, c] the x0 predicted there and one step before, newest first.
    """

    x: Any  # as in StepInfo
    origin: Any
    past: Any


@dataclasses.dataclass(frozen=True)
class UniPC(OnGrid):
    """The predictor-corrector of second order; it needs no noise, and a step evaluates the network once."""

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid.

        Coefficients beside the common ones: `corrects`, 0 in the first step; `c_origin`, `c_now`, `c_0` and `c_1`, the
        corrector's factors of the last step's start and of the x0 predicted now and before; `p_x`, `p_now` and `p_0`,
        the predictor's factors of the corrected image and of the x0 predicted now and before.
        """
        n, h = len(grid), np.diff(grid.log_snr)
        ratio = grid.sigma[1:] / grid.sigma[:-1]
        correctors, predictors = np.zeros((n, 4)), np.zeros((n, 3))
        for i in range(n):
            first = i == 0 or (i == n - 1 and grid.ends_without_noise)
            towards = 0.0 if first else -h[i - 1] / h[i]
            predictors[i] = _predictor(grid.alpha[i + 1], ratio[i], h[i], towards)
            if i:
                before = -h[i - 2] / h[i - 1] if i > 1 else 0.0
                correctors[i] = _corrector(grid.alpha[i], ratio[i - 1], h[i - 1], before)
        named = dict(
            zip(
                ("c_origin", "c_now", "c_0", "c_1", "p_x", "p_now", "p_0"),
                np.concatenate([correctors, predictors], axis=1).T,
                strict=True,
            )
        )
        return plan_steps(grid.t[:-1], grid.t[1:], **levels(grid), corrects=np.arange(n) > 0, **named)

    def init(self, x: Float[Array, "b h w c"]) -> UniPCCarry:
        """Returns the carry before the first step."""
        return UniPCCarry(x=x, origin=x, past=jnp.zeros((2, *x.shape), x.dtype))

    def step(self, carry: UniPCCarry, info: StepInfo, denoiser: Denoiser) -> tuple[UniPCCarry, Prediction]:
        """Returns the carry at `info.t_next`, and the prediction of the step."""
        prediction = denoiser(carry.x, info)
        c = coefficients_of(info, carry.x.ndim)
        now, past = prediction.x0, carry.past
        corrected = c["c_origin"] * carry.origin + c["c_now"] * now + c["c_0"] * past[0] + c["c_1"] * past[1]
        origin = jnp.where(c["corrects"] > 0, corrected, carry.x)
        x = c["p_x"] * origin + c["p_now"] * now + c["p_0"] * past[0]
        return UniPCCarry(x=x, origin=origin, past=jnp.stack([now, past[0]])), prediction


def _predictor(alpha: float, ratio: float, h: float, before: float) -> tuple[float, float, float]:
    """Returns the factors of x, of x0 now and of x0 at `before` lengths of the step (negative; 0: first order)."""
    phi = -np.expm1(-h)
    slope = 0.5 * alpha * phi / before if before else 0.0  # half of the slope between the two (their eq. 3.7, p = 2)
    return ratio, alpha * phi - slope, slope


def _corrector(alpha: float, ratio: float, h: float, before: float) -> Float64[np.ndarray, " 4"]:
    """Returns the factors of the step's start and of x0 predicted at its end, at its start and before.

    Args:
      alpha: the signal's factor at the step's end.
      ratio: of the noise's factors at its end and its start.
      h: its length in lambda.
      before: where x0 was predicted before the start, in lengths of the step (negative; 0: nowhere).
    """
    phi = -np.expm1(-h)
    # Their eq. 3.4: the weights integrate polynomials of the first and the second order exactly.
    first = phi / h - 1.0
    moments = [-first / phi, 2.0 * (first / h + 0.5) / phi]
    if before:
        weights = np.linalg.solve(np.array([[1.0, 1.0], [before, 1.0]]), np.array(moments))
    else:
        weights = np.array([0.0, 0.5])
    slope = weights[0] / before if before else 0.0
    return np.array([ratio, alpha * phi * weights[1], alpha * phi * (1.0 - weights[1] - slope), alpha * phi * slope])
