"""Data whose score is known in closed form: single numbers from two Gaussians, and their exact denoiser."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import Prediction, StepInfo
from rdm_jax.diffusion.samplers import SAMPLERS, sample, with_keys
from rdm_jax.diffusion.schedule import cosine, scaled_linear

SCHEDULE = cosine(1000)  # it ends without signal: standard normal noise is the right start
WEIGHTS, MEANS, DEVIATIONS = (0.3, 0.7), (-1.5, 1.0), (0.2, 0.3)
# A short run of two images of 8x8 independent pixels, and another image as a reference.
NOISE, KNOWN = (normal(image_keys(seed, jnp.arange(2)), (8, 8, 3)) for seed in (1, 2))
MASK = jnp.zeros((1, 8, 8, 1)).at[:, :, 4:].set(1.0)


def joint(x, alpha, sigma):
    """Returns log w_k N(x; alpha m_k, ...) of each component up to a constant, and E[x0 | x, k], [b, 1, 1, 1, 2]."""
    weights, means, deviations = (
        jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 1, 2) for v in (WEIGHTS, MEANS, DEVIATIONS)
    )
    variance = alpha**2 * deviations**2 + sigma**2
    away = x[..., None] - alpha * means
    return jnp.log(weights) - 0.5 * jnp.log(
        variance
    ) - 0.5 * away**2 / variance, means + alpha * deviations**2 / variance * away


def mixture(x, info):
    """Returns the exact prediction."""
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    logits, expected = joint(x, alpha, sigma)
    x0 = jnp.sum(jax.nn.softmax(logits) * expected, axis=-1)
    return Prediction(x0=x0, eps=(x - alpha * x0) / sigma)


def info_at(t, keys=None):
    """Returns the step at a time of the schedule."""
    levels = {"alpha": jnp.float32(SCHEDULE.signal[t]), "sigma": jnp.float32(SCHEDULE.noise[t])}
    return StepInfo(t=jnp.int32(t), t_next=jnp.int32(0), coefficients=levels, keys=keys)


def short_run(name, denoiser, hooks=()):
    """Returns what a sampler makes of `NOISE` in 12 steps."""
    sampler, schedule = SAMPLERS[name](spacing="trailing"), scaled_linear(1000, 0.00085, 0.012)
    steps = with_keys(sampler.plan(schedule, 12), image_keys(0, jnp.arange(2)))
    return np.asarray(sample(sampler, steps, NOISE, denoiser, hooks))


@functools.cache
def unguided(name):
    """Returns `short_run` of the exact denoiser."""
    return short_run(name, mixture)
