"""The training loss against closed forms, and the times against their distribution."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import logit

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.objective import TIME_WEIGHTS, diffusion_loss, sample_timesteps, time_weights
from rdm_jax.diffusion.parameterization import PREDICTIONS, target
from rdm_jax.diffusion.schedule import build_schedule, scaled_linear, signal_noise

GOLDEN = os.environ.get("RDM_GOLDEN")
SCHEDULE = scaled_linear(1000, 0.0015, 0.015)
SHAPE = (4, 3, 2, 5)


def _batch():
    x0, noise = (jax.random.normal(jax.random.key(i), SHAPE) for i in range(2))
    return x0, noise, jnp.array([0, 10, 640, 999], jnp.int32)


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_a_perfect_network_has_no_loss(kind):
    x0, noise, t = _batch()

    def perfect(x_t, times, context):
        return target(kind, x0, noise, *signal_noise(SCHEDULE, times))

    loss = diffusion_loss(perfect, x0, None, t, noise, SCHEDULE, kind)
    np.testing.assert_array_equal(loss, np.zeros(4, np.float32))


def test_the_network_sees_the_data_at_its_noise_level():
    x0, noise, t = _batch()
    seen = {}

    def apply(x_t, times, context):
        seen.update(x_t=x_t, t=times, context=context)
        return jnp.zeros_like(x_t)

    diffusion_loss(apply, x0, "the condition", t, noise, SCHEDULE, "eps")
    abar = np.cumprod(1 - SCHEDULE.betas)[np.asarray(t)].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(seen["x_t"], np.sqrt(abar) * x0 + np.sqrt(1 - abar) * noise, atol=1e-6)
    np.testing.assert_array_equal(seen["t"], t)
    assert seen["context"] == "the condition"


@pytest.mark.skipif(not GOLDEN, reason="RDM_GOLDEN is not set")
def test_the_noised_data_is_the_originals():
    golden = np.load(Path(GOLDEN) / "train_step.npz")
    x0, noise, expected = (jnp.asarray(np.moveaxis(golden[name], 1, -1)) for name in ("x0", "noise", "x_noisy"))

    def apply(x_t, t, context):
        np.testing.assert_allclose(x_t, expected, atol=1e-6)
        return noise

    diffusion_loss(apply, x0, None, jnp.asarray(golden["t"], jnp.int32), noise, SCHEDULE, "eps")


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_the_loss_of_zero_output_is_the_power_of_the_target(kind):
    x0, noise, t = _batch()
    loss = diffusion_loss(lambda x, times, context: jnp.zeros_like(x), x0, None, t, noise, SCHEDULE, kind)
    expected = np.square(target(kind, x0, noise, *signal_noise(SCHEDULE, t))).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_losses_of_eps_and_x0_differ_by_the_signal_to_noise_ratio():
    # |x0 - x0'|^2 = (sigma / alpha)^2 |eps - eps'|^2 (Salimans & Ho, sec. 4): the same network read both ways.
    x0, noise, t = _batch()
    t = jnp.array([100, 300, 640, 999], jnp.int32)
    alpha, sigma = (value.reshape(-1, 1, 1, 1) for value in signal_noise(SCHEDULE, t))
    eps = jax.random.normal(jax.random.key(9), SHAPE)
    weights = jnp.square(alpha / sigma).reshape(-1)
    by_eps = diffusion_loss(lambda *_: eps, x0, None, t, noise, SCHEDULE, "eps")
    by_x0 = diffusion_loss(lambda x, *_: (x - sigma * eps) / alpha, x0, None, t, noise, SCHEDULE, "x0", weights)
    np.testing.assert_allclose(by_eps, by_x0, rtol=1e-3)


@pytest.mark.parametrize("example", [0, 13])
def test_the_times_of_an_example_are_uniform_and_in_range(example):
    keys = jax.random.split(jax.random.key(0), 20000)
    t = np.asarray(jax.vmap(lambda key: sample_timesteps(key, 16, 10)[example])(keys))
    assert t.dtype == np.int32
    counts = np.bincount(t, minlength=10)
    assert counts.size == 10
    # Chi-squared with 9 degrees of freedom: 27.9 is passed once in a thousand samples.
    assert np.sum((counts - 2000) ** 2 / 2000) < 27.9


def test_logit_normal_times_are_sigmoids_of_normals():
    keys = jax.random.split(jax.random.key(0), 20000)
    t = np.asarray(jax.vmap(lambda key: sample_timesteps(key, 4, 1000, "logit_normal")[3])(keys))
    assert t.min() >= 0 and t.max() < 1000
    # Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed once in a thousand samples; the times are whole numbers.
    distance = scipy.stats.kstest(logit((t + 0.5) / 1000), "norm").statistic
    assert distance < 1.95 / 20000**0.5 + 0.002
    with pytest.raises(UserError, match="did you mean 'logit_normal'"):
        sample_timesteps(jax.random.key(0), 4, 1000, "logitnormal")


def test_the_times_of_a_batch_leave_no_gap():
    # Three gaps theorem: 16 steps of the golden section leave gaps of at most phi ** -5 of the circle.
    for seed in range(20):
        t = np.sort(np.asarray(sample_timesteps(jax.random.key(seed), 16, 1000)))
        assert np.diff(t, append=t[0] + 1000).max() <= 1000 * ((1 + 5**0.5) / 2) ** -5 + 2


def test_an_examples_time_does_not_depend_on_the_batch():
    key = jax.random.key(1)
    np.testing.assert_array_equal(sample_timesteps(key, 16, 1000)[:3], sample_timesteps(key, 3, 1000))


@pytest.mark.parametrize("name", sorted(TIME_WEIGHTS))
def test_min_snr_weighs_the_same_error_for_every_parameterization(name):
    schedule = build_schedule({"num_timesteps": 1000, "schedule": "cosine"})
    t = jnp.arange(1, 1000, 37)
    alpha, sigma = (np.asarray(v, np.float64) for v in signal_noise(schedule, t))
    snr = (alpha / sigma) ** 2
    weights = {kind: np.asarray(time_weights(name, schedule, t, kind)) for kind in ("eps", "v", "x0")}
    if name == "uniform":
        assert all((values == 1.0).all() for values in weights.values())
        return
    # An error d of x0 at the same x_t is alpha / sigma d of eps, and d / sigma of v.
    np.testing.assert_allclose(weights["x0"], np.minimum(snr, 5.0), rtol=1e-4)
    np.testing.assert_allclose(weights["eps"] * (alpha / sigma) ** 2, weights["x0"], rtol=1e-4)
    np.testing.assert_allclose(weights["v"] / sigma**2, weights["x0"], rtol=1e-3)


def test_an_unknown_time_weight_is_refused():
    schedule = build_schedule({"num_timesteps": 10, "schedule": "cosine"})
    with pytest.raises(UserError, match="unknown time weight 'min_snt'; did you mean 'min_snr'"):
        time_weights("min_snt", schedule, jnp.arange(3), "eps")
