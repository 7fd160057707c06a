"""Guidance by gradients: the sampler moves towards large values of a sum of objectives.

The score of p(x_t) p(y | x_t) is the sum of both scores, so a gradient g of log p(y | x_t), or of any similarity in its
place, changes the predicted noise to eps - sigma g (Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233, algorithm
2; Liu et al. 2021, https://arxiv.org/abs/2112.05744, eq. 6). This applies to every sampler; with DDPM it moves the mean
of a step by the large variance times g. Where the network predicts the variance of DDPM's step, g is scaled so that the
mean moves by that variance times g (Dhariwal & Nichol, algorithm 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Denoiser, Guide, Prediction, StepInfo
from rdm_jax.diffusion.parameterization import per_image

FARTHEST = 3.0  # largest root mean square of the shift of x0; latents have a standard deviation of about 1

Measure = Callable[[Float[Array, "b h w c"], StepInfo], Float[Array, " b"]]
"""(x_t or the predicted x0, the step) to a number for each image; larger is better."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """One term of the sum that guidance increases.

    Attributes:
      measure: a number for each image, independent of the other images.
      weight: of its gradient: one for all images or one for each, may be traced.
      of_x0: whether it measures the denoised estimate, whose gradient goes through the denoiser; else x_t itself.
    """

    measure: Measure
    weight: Any
    of_x0: bool = False


def gradient_guidance(objectives: Sequence[Objective]) -> Guide:
    """Returns the guide eps - sigma * (gradient of the weighted sum of all objectives by x_t).

    One gradient is computed in each step, for any number of objectives. The denoiser is differentiated only if one of
    them measures x0.
    """

    def total(x_t: Array, prediction: Prediction, info: StepInfo) -> Array:
        """Returns the weighted sum of all objectives over all images; each image's gradient depends on it alone."""
        values = [
            jnp.sum(per_image(jnp.asarray(one.weight), 1) * one.measure(prediction.x0 if one.of_x0 else x_t, info))
            for one in objectives
        ]
        return jnp.sum(jnp.stack(values))

    def guide(denoiser: Denoiser) -> Denoiser:
        """Returns the guided denoiser."""

        def guided(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
            """Returns the prediction after the gradient."""

            def through(x: Array) -> tuple[Array, Prediction]:
                """Returns the sum as a function of x_t alone, through the denoiser, and the prediction."""
                prediction = denoiser(x, info)
                return total(x, prediction, info), prediction

            if any(one.of_x0 for one in objectives):
                gradient, prediction = jax.grad(through, has_aux=True)(x_t)
            else:
                prediction = denoiser(x_t, info)
                gradient = jax.grad(total)(x_t, prediction, info)
            return shift(prediction, gradient, info)

        return guided

    return guide


def shift(prediction: Prediction, gradient: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
    """Returns a prediction after a gradient g of log p(y | x_t): eps - sigma g and its x0.

    x0 moves by sigma^2 / alpha g. The gradient of an exact likelihood vanishes as alpha goes to 0, that of a network
    does not: the shift of x0 is limited to `FARTHEST`.
    """
    alpha, sigma = (per_image(info.coefficients[name], gradient.ndim) for name in ("alpha", "sigma"))
    if prediction.log_variance is not None:
        gradient = gradient * _of_large_variance(prediction.log_variance, info)
    gradient = gradient * shorten(sigma**2 / alpha * gradient, FARTHEST)
    return dataclasses.replace(
        prediction, x0=prediction.x0 + sigma**2 / alpha * gradient, eps=prediction.eps - sigma * gradient
    )


def _of_large_variance(log_variance: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, "b h w c"]:
    """Returns a variance over beta / sqrt(1 - beta), by which eps - sigma g moves the mean of DDPM's step."""
    alpha, alpha_next = (per_image(info.coefficients[name], log_variance.ndim) for name in ("alpha", "alpha_next"))
    left = jnp.square(alpha / alpha_next)  # 1 - beta
    return jnp.exp(log_variance) * jnp.sqrt(left) / (1.0 - left)


def shorten(step: Float[Array, "b h w c"], farthest: float) -> Float[Array, "b 1 1 1"]:
    """Returns the factor of each image that limits its root mean square to `farthest`; 1 where it is below."""
    axes = tuple(range(1, step.ndim))
    largest = jnp.maximum(jnp.max(jnp.abs(step), axis=axes, keepdims=True), jnp.finfo(step.dtype).tiny)
    # Squares of large numbers overflow; relative to the largest they do not.
    length = largest * jnp.sqrt(jnp.mean(jnp.square(step / largest), axis=axes, keepdims=True))
    return jnp.minimum(1.0, farthest / length)
