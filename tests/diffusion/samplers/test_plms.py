"""PLMS against the original's tables and predictions, and against closed forms."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import Prediction
from rdm_jax.diffusion.samplers import num_steps, sample, sample_chunk, slice_steps
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.diffusion.samplers.plms import ADAMS_BASHFORTH, PLMS
from rdm_jax.diffusion.schedule import scaled_linear

GOLDEN = os.environ.get("RDM_GOLDEN")
SCHEDULE = scaled_linear(1000, 0.0015, 0.015)
MEAN, DEVIATION = 1.5, 0.4


def _gaussian(x, info):
    """The optimal denoiser of data N(MEAN, DEVIATION^2)."""
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    eps = sigma * (x - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2)
    return Prediction(x0=(x - sigma * eps) / alpha, eps=eps)


@pytest.mark.skipif(not GOLDEN, reason="RDM_GOLDEN is not set")
def test_plan_is_the_originals():
    golden = np.load(Path(GOLDEN) / "plms.npz")
    plan = PLMS().plan(SCHEDULE, 10)
    assert num_steps(plan) == golden["n_model_calls"]
    np.testing.assert_array_equal(np.delete(plan.t, 1), golden["t"])
    assert plan.t[1] == plan.t_next[0] == plan.t_next[1]
    np.testing.assert_allclose(
        np.delete(plan.coefficients["alpha_from"], 0)[::-1] ** 2, golden["ddim_alphas"], rtol=1e-6
    )


@pytest.mark.parametrize("order", [2, 3, 4])
def test_weights_integrate_polynomials_exactly(order):
    # Adams-Bashforth: the integral over [0, 1] of the polynomial through the values at 0, -1, ..., 1 - order.
    weights = ADAMS_BASHFORTH[order - 2]
    for power in range(order):
        values = (-np.arange(4.0)) ** power
        assert weights @ values == pytest.approx(1 / (power + 1))
    assert not weights[order:].any()


@pytest.mark.parametrize("count", [1, 2, 4, 5, 10])
def test_steps_of_a_perfect_denoiser_follow_the_line_between_data_and_noise(count):
    x0, noise = (jax.random.normal(jax.random.key(i), (2, 3, 3, 2)) for i in range(2))
    plan = PLMS().plan(SCHEDULE, count)
    c = plan.coefficients
    last = sample(
        PLMS(), plan, c["alpha"][0] * x0 + c["sigma"][0] * noise, lambda x, info: Prediction(x0=x0, eps=noise)
    )
    np.testing.assert_allclose(last, c["alpha_next"][-1] * x0 + c["sigma_next"][-1] * noise, rtol=1e-4, atol=1e-4)


def test_it_follows_the_flow_of_gaussian_data_closer_than_ddim():
    # The flow keeps each sample's standard score; steps at the two ends of the schedule bound what any order can do.
    errors = {}
    for sampler in (DDIM(), PLMS()):
        plan = sampler.plan(SCHEDULE, 100)
        ends = []
        for which, index in (("", 0), ("_next", -1)):
            alpha, sigma = (float(plan.coefficients[name + which][index]) for name in ("alpha", "sigma"))
            ends.append((alpha * MEAN, np.hypot(alpha * DEVIATION, sigma)))
        (mean, deviation), (mean_end, deviation_end) = ends
        x_T = mean + deviation * normal(image_keys(3, jnp.arange(8)), (4, 4, 4))
        last = sample(sampler, plan, x_T, _gaussian)
        errors[type(sampler)] = np.abs((last - mean_end) / deviation_end - (x_T - mean) / deviation).max()
    assert errors[PLMS] < 0.2 * errors[DDIM]


def test_chunks_of_a_plan_equal_the_whole():
    plan = PLMS().plan(SCHEDULE, 5)
    x_T = normal(image_keys(0, jnp.arange(2)), (3, 3, 1))
    carry = PLMS().init(x_T)
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        carry, _ = sample_chunk(PLMS(), slice_steps(plan, start, stop), carry, _gaussian)
    np.testing.assert_allclose(carry.x, sample(PLMS(), plan, x_T, _gaussian), rtol=1e-6)


def test_a_number_of_steps_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="27 sampling steps do not fit"):
        PLMS().plan(SCHEDULE, 27)
