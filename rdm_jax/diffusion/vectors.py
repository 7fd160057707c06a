"""Diffusion of single vectors, as unCLIP's prior has it: training and sampling share its schedule and its steps.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.2: the network predicts the vector without noise. The
schedule, the clipping and the ancestral steps are those of the open model Karlo. A vector [d] is a latent of one pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rdm_jax.core.keys import normal
from rdm_jax.diffusion.denoiser import Prediction, StepInfo
from rdm_jax.diffusion.objective import diffusion_loss
from rdm_jax.diffusion.parameterization import to_prediction
from rdm_jax.diffusion.samplers.base import sample, with_keys
from rdm_jax.diffusion.samplers.ddpm import DDPM
from rdm_jax.diffusion.schedule import Schedule, cosine

SAMPLER = DDPM(spacing="linspace")
PREDICTION = "x0"
BOUND = 5.0
"""The denoised estimate of a standardized vector is clipped to it while sampling."""

ApplyToVectors = Callable[[Float[Array, "b d"], Array, Any], Float[Array, "b d"]]
"""A network with its parameters: (x_t [b, d], t [b], context) to the denoised estimate."""


@functools.cache
def schedule() -> Schedule:
    """Returns the noise schedule of vectors."""
    return cosine(1000)


def vector_loss(
    apply: ApplyToVectors, x0: Float[Array, "b d"], context: Any, t: Int[Array, " b"], noise: Float[Array, "b d"]
) -> Float[Array, " b"]:
    """Returns each example's squared error of the denoised estimate, the mean over the vector's numbers.

    Args:
      apply: the network with its parameters.
      x0: standardized vectors.
      context: passed to `apply` unchanged.
      t: each example's time, in [0, 1000).
      noise: standard normal.
    """

    def on_pixels(x: Float[Array, "b 1 1 d"], t: Array, context: Any) -> Float[Array, "b 1 1 d"]:
        return apply(x[:, 0, 0], t, context)[:, None, None]

    return diffusion_loss(on_pixels, x0[:, None, None], context, t, noise[:, None, None], schedule(), kind=PREDICTION)


def sample_vectors(
    apply: ApplyToVectors, keys: Key[Array, " b"], dim: int, given: Any, null: Any, scale: Any, steps: int
) -> Float[Array, "b d"]:
    """Returns standardized vectors, sampled under classifier-free guidance: null + scale (given - null).

    Args:
      apply: the network with its parameters, evaluated on both conditions at once.
      keys: of the vectors.
      dim: d, the size of a vector.
      given: the condition, a tree with a leading axis b.
      null: that of no text, likewise.
      scale: of the guidance; 1 disables it.
      steps: in [1, 1000].

    Raises:
      UserError: the number of steps is out of range.
    """
    both = jax.tree.map(lambda one, other: jnp.concatenate([one, other]), null, given)

    def denoiser(x: Float[Array, "b 1 1 d"], info: StepInfo) -> Prediction:
        vectors = jnp.concatenate([x[:, 0, 0]] * 2)
        without, under = jnp.split(apply(vectors, jnp.full(len(vectors), info.t), both), 2)
        x0 = jnp.clip(without + scale * (under - without), -BOUND, BOUND)[:, None, None]
        return to_prediction(x0, x, info.coefficients["alpha"], info.coefficients["sigma"], PREDICTION)

    plan = with_keys(SAMPLER.plan(schedule(), steps), keys)
    return sample(SAMPLER, plan, normal(keys, (1, 1, dim)), denoiser)[:, 0, 0]
