"""Guidance by gradients: a run is led to where a sum of objectives is large.

The score of p(x_t) p(y | x_t) is the sum of both scores, so a gradient g of log p(y | x_t), or of any similarity in its
place, changes what is believed of the noise to eps - sigma g (Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233,
algorithm 2; Liu et al. 2021, https://arxiv.org/abs/2112.05744, eq. 6). It so bends every sampler in the same way. With
DDPM it moves a step's mean by the large variance times g.
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

FARTHEST = 3.0  # standard deviations of latents, which have about 1: root mean square over an image

Measure = Callable[[Float[Array, "b h w c"], StepInfo], Float[Array, " b"]]
"""x_t, or what is believed of x0, and the step, to a number for each image, of which more is better."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """One thing that a run is led to.

    Attributes:
      measure: how good a picture is; images do not see each other in it.
      weight: of its gradient: one for all images or one for each, may be traced.
      of_x0: whether it measures the clean estimate, whose gradient goes through the network; else x_t itself.
    """

    measure: Measure
    weight: Any
    of_x0: bool = False


def gradient_guidance(objectives: Sequence[Objective]) -> Guide:
    """Returns the guide eps - sigma * (gradient of the weighted sum of all objectives by x_t).

    One gradient is taken a step, whatever the number of objectives. The network is differentiated only where one of
    them measures x0.
    """

    def total(x_t: Array, prediction: Prediction, info: StepInfo) -> Array:
        """Returns the weighted sum of all objectives over all images, of which each image's gradient is its own."""
        values = [
            jnp.sum(per_image(jnp.asarray(one.weight), 1) * one.measure(prediction.x0 if one.of_x0 else x_t, info))
            for one in objectives
        ]
        return jnp.sum(jnp.stack(values))

    def guide(denoiser: Denoiser) -> Denoiser:
        """Returns the denoiser that is led."""

        def guided(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
            """Returns what the denoiser says, after the gradient."""

            def through(x: Array) -> tuple[Array, Prediction]:
                """Returns the sum as a function of x_t alone, through the network, and what that said."""
                prediction = denoiser(x, info)
                return total(x, prediction, info), prediction

            if any(one.of_x0 for one in objectives):
                gradient, prediction = jax.grad(through, has_aux=True)(x_t)
            else:
                prediction = denoiser(x_t, info)
                gradient = jax.grad(total)(x_t, prediction, info)
            return shifted(prediction, gradient, info)

        return guided

    return guide


def shifted(prediction: Prediction, gradient: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
    """Returns a prediction after a gradient of log p(y | x_t): eps - sigma g, and the x0 that goes with it.

    x0 moves by sigma^2 / alpha g. No likelihood moves what is believed of x0 out of the data, but a network's gradient
    stays where alpha goes to 0 and the likelihood's would not: the way of x0 is cut to `FARTHEST`.
    """
    alpha, sigma = (per_image(info.coefficients[name], gradient.ndim) for name in ("alpha", "sigma"))
    gradient = gradient * shortening(sigma**2 / alpha * gradient, FARTHEST)
    return dataclasses.replace(
        prediction, x0=prediction.x0 + sigma**2 / alpha * gradient, eps=prediction.eps - sigma * gradient
    )


def shortening(way: Float[Array, "b h w c"], farthest: float) -> Float[Array, "b 1 1 1"]:
    """Returns the factor of each image that brings its root mean square down to `farthest`; 1 where it is below."""
    axes = tuple(range(1, way.ndim))
    largest = jnp.maximum(jnp.max(jnp.abs(way), axis=axes, keepdims=True), jnp.finfo(way.dtype).tiny)
    # The squares of large numbers overflow, those of shares of the largest do not.
    length = largest * jnp.sqrt(jnp.mean(jnp.square(way / largest), axis=axes, keepdims=True))
    return jnp.minimum(1.0, farthest / length)
