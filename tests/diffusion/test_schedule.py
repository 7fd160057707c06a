"""The schedule against the original's buffers and against the identities that define it."""

from __future__ import annotations

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.schedule import Schedule, build_schedule, cosine, scaled_linear, signal_noise

GOLDEN = os.environ.get("RDM_GOLDEN")


@pytest.mark.skipif(not GOLDEN, reason="RDM_GOLDEN is not set")
def test_buffers_are_the_originals():
    golden = np.load(Path(GOLDEN) / "schedule.npz")
    schedule = scaled_linear(1000, 0.0015, 0.015)
    buffers = schedule.buffers()
    assert len(buffers) == 12
    for name, value in buffers.items():
        np.testing.assert_array_equal(value.astype(np.float32), golden[name], err_msg=name)
    np.testing.assert_allclose(schedule.vlb_weights, golden["lvlb_weights"], rtol=1e-4)


def test_coefficients_are_those_of_the_chain_they_sum_up():
    # x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) n: signal and noise variance, one step after the other.
    schedule = scaled_linear(50, 0.001, 0.2)
    signal, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas):
        signal, variance = signal * np.sqrt(1 - beta), variance * (1 - beta) + beta
        assert schedule.signal[t] == pytest.approx(signal, rel=1e-12)
        assert schedule.noise[t] ** 2 == pytest.approx(variance, rel=1e-12)


def test_posterior_is_bayes_rule():
    # Precisions add: that of x_{t-1} given x_0 and that of x_t given x_{t-1}.
    schedule = scaled_linear(50, 0.001, 0.2)
    beta, previous = schedule.betas[1:], schedule.alphas_cumprod[:-1]
    variance = 1 / (1 / (1 - previous) + (1 - beta) / beta)
    buffers = schedule.buffers()
    np.testing.assert_allclose(schedule.posterior_variance[1:], variance, rtol=1e-12)
    np.testing.assert_allclose(buffers["posterior_mean_coef1"][1:], variance * np.sqrt(previous) / (1 - previous))
    np.testing.assert_allclose(buffers["posterior_mean_coef2"][1:], variance * np.sqrt(1 - beta) / beta)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_signal_noise_keeps_the_shape_and_the_variance(shape):
    schedule = scaled_linear(1000, 0.0015, 0.0195)
    alpha, sigma = signal_noise(schedule, jnp.full(shape, 640, jnp.int32))
    assert alpha.shape == sigma.shape == shape
    assert alpha.dtype == sigma.dtype == jnp.float32
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    np.testing.assert_array_equal(alpha, np.full(shape, schedule.signal[640], np.float32))


@pytest.mark.parametrize(("timesteps", "start", "end"), [(0, 0.1, 0.2), (10, 0.0, 0.2), (10, 0.1, 1.0)])
def test_an_impossible_schedule_is_refused(timesteps, start, end):
    with pytest.raises(UserError, match=r"betas from|timesteps"):
        scaled_linear(timesteps, start, end)


def test_betas_outside_the_unit_interval_are_refused():
    with pytest.raises(UserError, match="between 0 and 1"):
        Schedule(np.array([0.1, 1.5]))


def test_the_cosine_schedule_is_the_paper_s_closed_form():
    schedule = cosine(1000)
    time = np.arange(1, 1001) / 1000
    closed = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    # The last betas are clipped at 0.999, unlike the closed form.
    np.testing.assert_allclose(schedule.alphas_cumprod[:-1], closed[:-1], rtol=1e-9)
    assert schedule.betas[-1] == 0.999 and 0 < schedule.alphas_cumprod[-1] < 1e-8
    assert schedule.alphas_cumprod[499] == pytest.approx(0.5, abs=0.01)
    half = np.searchsorted(-scaled_linear(1000, 0.0015, 0.0195).alphas_cumprod, -0.5)
    assert 1.9 < 499 / half < 2.1, "twice the time is spent where most of the signal is left"


def test_a_configuration_names_its_schedule():
    linear = {"num_timesteps": 20, "beta_start": 0.01, "beta_end": 0.2}
    np.testing.assert_array_equal(build_schedule(linear).betas, scaled_linear(20, 0.01, 0.2).betas)
    np.testing.assert_array_equal(build_schedule({"num_timesteps": 20, "schedule": "cosine"}).betas, cosine(20).betas)
    with pytest.raises(UserError, match="unknown noise schedule 'cosin'; did you mean 'cosine'"):
        build_schedule({"num_timesteps": 20, "schedule": "cosin"})
    with pytest.raises(UserError, match="the scaled_linear schedule lacks beta_end"):
        build_schedule({"num_timesteps": 20, "beta_start": 0.01})
    with pytest.raises(UserError, match="0 diffusion timesteps"):
        cosine(0)
