"""Diffusion of vectors: the loss and the samples of networks whose results are known in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import image_keys
from rdm_jax.diffusion.vectors import BOUND, sample_vectors, schedule, vector_loss

NORMAL = np.random.default_rng(0).normal


def test_the_loss_is_the_error_of_the_estimate():
    x0, noise, t = (jnp.asarray(NORMAL(size=(4, 6)), jnp.float32) for _ in range(3))
    t, shift = jnp.array([0, 10, 500, 999]), jnp.asarray(NORMAL(size=4), jnp.float32)
    seen = {}

    def apply(x, t, context):
        seen["x"] = x
        return x0 + context[:, None]

    np.testing.assert_allclose(vector_loss(apply, x0, shift, t, noise), shift**2, rtol=1e-4)
    alpha, sigma = schedule().at(np.asarray(t))
    np.testing.assert_allclose(seen["x"], alpha[:, None] * x0 + sigma[:, None] * noise, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 6])
def test_a_network_that_knows_the_vector_samples_it_under_guidance_and_clips(steps):
    given = jnp.asarray(NORMAL(size=(3, 6)), jnp.float32)
    null, keys = 0.5 * given, image_keys(0, jnp.arange(3))
    sample = jax.jit(lambda scale: sample_vectors(lambda x, t, c: c, keys, 6, given, null, scale, steps))
    for scale in (1.0, 3.0, 20.0):
        expected = np.clip(null + scale * (given - null), -BOUND, BOUND)
        np.testing.assert_allclose(sample(scale), expected, rtol=2e-3, atol=2e-3)


def test_the_samples_of_a_normal_distribution_have_its_mean_and_variance():
    """With x0 ~ N(m, s^2), E[x0 | x_t] = m + alpha s^2 (x_t - alpha m) / (alpha^2 s^2 + sigma^2)."""
    mean, std, count = 0.7, 0.4, 4000
    alphas, sigmas = (jnp.asarray(level, jnp.float32) for level in (schedule().signal, schedule().noise))

    def apply(x, t, context):
        alpha, sigma = alphas[t.astype(jnp.int32)][:, None], sigmas[t.astype(jnp.int32)][:, None]
        return mean + alpha * std**2 * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    nothing = jnp.zeros((count, 1))
    keys = image_keys(1, jnp.arange(count))
    x = np.asarray(jax.jit(lambda: sample_vectors(apply, keys, 2, nothing, nothing, 1.0, 200))())
    assert abs(x.mean() - mean) < 4 * std / np.sqrt(2 * count)
    assert x.std() == pytest.approx(std, rel=0.03)


def test_a_vector_depends_on_its_own_key_alone():
    given = jnp.ones((4, 2))

    def apply(x, t, c):
        return 0.5 * x

    every = sample_vectors(apply, image_keys(3, jnp.arange(4)), 2, given, given, 2.0, 5)
    some = sample_vectors(apply, image_keys(3, jnp.arange(2, 4)), 2, given[:2], given[:2], 2.0, 5)
    np.testing.assert_allclose(every[2:], some, rtol=1e-5, atol=1e-6)


def test_too_many_steps_are_refused():
    with pytest.raises(UserError, match="1001 sampling steps do not fit a schedule of 1000"):
        sample_vectors(
            lambda x, t, c: x, image_keys(0, jnp.arange(1)), 2, jnp.ones((1, 1)), jnp.ones((1, 1)), 1.0, 1001
        )
