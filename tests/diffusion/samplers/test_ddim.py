"""DDIM against closed forms: a known distribution, Bayes' rule for the ancestral step, the original's tables."""

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
from rdm_jax.diffusion.samplers import base, sample, sample_chunk, slice_steps, with_keys
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.diffusion.schedule import scaled_linear
from rdm_jax.diffusion.spacing import grid_through

GOLDEN = os.environ.get("RDM_GOLDEN")
SCHEDULE = scaled_linear(1000, 0.0015, 0.015)
MEAN, DEVIATION = 1.5, 0.4


def _gaussian(x, info):
    """The optimal denoiser of data N(MEAN, DEVIATION^2): the conditional expectation of the noise."""
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    eps = sigma * (x - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2)
    return Prediction(x0=(x - sigma * eps) / alpha, eps=eps)


def _marginal(steps, which, index):
    """Mean and deviation of the noised data at a step."""
    alpha = float(steps.coefficients["alpha" + which][index])
    sigma = float(steps.coefficients["sigma" + which][index])
    return alpha * MEAN, np.sqrt(alpha**2 * DEVIATION**2 + sigma**2)


def _keys(count):
    return image_keys(3, jnp.arange(count))


@pytest.mark.skipif(not GOLDEN, reason="RDM_GOLDEN is not set")
@pytest.mark.parametrize(
    ("name", "steps", "eta"),
    [("ddim", 10, 0.0), ("ddim_eta1", 10, 1.0), ("ddim_noguidance", 5, 0.0), ("ddim_S30", 30, 0.0)],
)
def test_plan_is_the_originals(name, steps, eta):
    golden = np.load(Path(GOLDEN) / f"{name}.npz")
    plan = DDIM(eta=eta).plan(SCHEDULE, steps)
    np.testing.assert_array_equal(plan.t, golden["t"])
    np.testing.assert_array_equal(plan.t[::-1], golden["ddim_timesteps"])
    assert plan.t_next[-1] == 0
    forward = {name: np.asarray(value)[::-1] for name, value in plan.coefficients.items()}
    np.testing.assert_allclose(forward["alpha"] ** 2, golden["ddim_alphas"], rtol=1e-6)
    np.testing.assert_allclose(forward["sigma"], golden["ddim_sqrt_one_minus_alphas"], rtol=1e-5)
    np.testing.assert_allclose(forward["alpha_next"] ** 2, golden["ddim_alphas_prev"], rtol=1e-6)
    # The original takes 1 - alphas_prev from a float32, which loses a few digits near 1.
    np.testing.assert_allclose(forward["eta_sigma"], golden["ddim_sigmas"], rtol=1e-4)
    rest = 1 - golden["ddim_alphas_prev"] - golden["ddim_sigmas"] ** 2
    np.testing.assert_allclose(forward["direction"], np.sqrt(rest), rtol=1e-4)


def _nhwc(array):
    return jnp.asarray(np.moveaxis(array, -3, -1))


@pytest.mark.slow
@pytest.mark.skipif(not GOLDEN, reason="RDM_GOLDEN is not set")
@pytest.mark.parametrize(
    ("name", "steps", "eta"),
    [("ddim", 10, 0.0), ("ddim_eta1", 10, 1.0), ("ddim_noguidance", 5, 0.0), ("ddim_S30", 30, 0.0)],
)
def test_a_run_through_the_originals_predictions_is_the_originals(name, steps, eta, monkeypatch):
    # The original's x0 at each step stands for the network, and its noise for ours: a key's number is its step.
    golden = np.load(Path(GOLDEN) / f"{name}.npz")
    x_T, path, x0 = (_nhwc(golden[part]) for part in ("x_T", "traj_x", "traj_pred_x0"))
    sampler = DDIM(eta=eta)
    plan = sampler.plan(SCHEDULE, steps)
    count, batch = path.shape[:2]
    keys = jnp.repeat(jax.vmap(jax.random.key)(jnp.arange(count)), batch).reshape(count, batch)
    if eta:
        noises = _nhwc(golden["noises"])
        monkeypatch.setattr(base, "normal", lambda keys, shape: noises[jax.random.key_data(keys)[0, -1]])

    def original(x, info):
        alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
        prediction = x0[jnp.argmax(plan.t == info.t)]
        return Prediction(x0=prediction, eps=(x - alpha * prediction) / sigma)

    carry = sampler.init(x_T)
    for i in range(count):
        carry, _ = sample_chunk(sampler, slice_steps(plan.replace(keys=keys), i, i + 1), carry, original)
        np.testing.assert_allclose(carry.x, path[i], atol=1e-4 * np.abs(path[i]).max())
    np.testing.assert_allclose(carry.x, _nhwc(golden["samples"]), atol=1e-4 * np.abs(carry.x).max())


def test_the_flow_keeps_each_samples_place_in_the_distribution():
    # The probability-flow ODE of Gaussian data moves x so that its standard score is constant, and DDIM is a
    # first-order scheme for it: the error halves with the step.
    errors = []
    for count in (125, 250, 500):
        steps = DDIM().plan(SCHEDULE, count)
        (mean, deviation), (mean_end, deviation_end) = _marginal(steps, "", 0), _marginal(steps, "_next", -1)
        x_T = mean + deviation * normal(_keys(8), (4, 4, 4))
        last = sample(DDIM(), steps, x_T, _gaussian)
        errors.append(np.abs((last - mean_end) / deviation_end - (x_T - mean) / deviation).max())
    assert errors[-1] < 0.05
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2.0, atol=0.35)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_samples_of_gaussian_data_have_its_mean_and_deviation(eta):
    sampler = DDIM(eta=eta)
    steps = with_keys(sampler.plan(SCHEDULE, 500), _keys(16))
    mean, deviation = _marginal(steps, "", 0)
    x_T = mean + deviation * normal(image_keys(4, jnp.arange(16)), (16, 16, 4))
    last = np.asarray(sample(sampler, steps, x_T, _gaussian))
    mean_end, deviation_end = _marginal(steps, "_next", -1)
    # 16384 values: one standard error of the mean is 0.8% of the deviation, that of the deviation 0.6%.
    assert last.mean() == pytest.approx(mean_end, abs=0.04 * deviation_end)
    assert last.std() == pytest.approx(deviation_end, rel=0.04)


def test_eta_one_is_the_ddpm_posterior():
    # q(x_s | x_t, x_0) by Bayes' rule: precisions add. Its variance is eta_sigma^2, its mean the step's.
    plan = DDIM(eta=1.0).plan(SCHEDULE, 50)
    c = {name: np.asarray(value, np.float64) for name, value in plan.coefficients.items()}
    ratio = c["alpha"] / c["alpha_next"]
    between = c["sigma"] ** 2 - ratio**2 * c["sigma_next"] ** 2
    variance = 1 / (1 / c["sigma_next"] ** 2 + ratio**2 / between)
    np.testing.assert_allclose(c["eta_sigma"] ** 2, variance, rtol=1e-3)
    x0, eps = 0.7, -1.1
    mean = variance * (
        c["alpha_next"] * x0 / c["sigma_next"] ** 2 + ratio * (c["alpha"] * x0 + c["sigma"] * eps) / between
    )
    np.testing.assert_allclose(c["alpha_next"] * x0 + c["direction"] * eps, mean, rtol=1e-3, atol=1e-4)


def test_eta_one_between_neighboring_times_is_the_schedules_posterior_variance():
    t = np.arange(999, 0, -1)
    plan = DDIM(eta=1.0).plan_on(grid_through(SCHEDULE, np.append(t, 0)), SCHEDULE)
    np.testing.assert_allclose(plan.coefficients["eta_sigma"] ** 2, SCHEDULE.posterior_variance[t], rtol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_of_a_perfect_denoiser_lands_on_the_next_noise_level(eta):
    # Whatever eta: the direction's and the fresh noise's variance add up to that of the next time.
    c = DDIM(eta=eta).plan(SCHEDULE, 50).coefficients
    np.testing.assert_allclose(c["direction"] ** 2 + c["eta_sigma"] ** 2, c["sigma_next"] ** 2, rtol=1e-5)


def test_deterministic_steps_of_a_perfect_denoiser_follow_the_line_between_data_and_noise():
    x0, noise = (jax.random.normal(jax.random.key(i), (2, 3, 3, 2)) for i in range(2))
    plan = DDIM().plan(SCHEDULE, 30)
    c = plan.coefficients
    x_T = c["alpha"][0] * x0 + c["sigma"][0] * noise
    last = sample(DDIM(), plan, x_T, lambda x, info: Prediction(x0=x0, eps=noise))
    np.testing.assert_allclose(last, c["alpha_next"][-1] * x0 + c["sigma_next"][-1] * noise, rtol=1e-5, atol=1e-5)


def test_no_keys_are_needed_unless_noise_is_sampled():
    x_T = jnp.ones((1, 2, 2, 1))
    sample(DDIM(), DDIM().plan(SCHEDULE, 2), x_T, _gaussian)
    with pytest.raises(ValueError, match="with_keys"):
        sample(DDIM(eta=0.5), DDIM(eta=0.5).plan(SCHEDULE, 2), x_T, _gaussian)


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_out_of_range_is_refused(eta):
    with pytest.raises(UserError, match="between 0"):
        DDIM(eta=eta)
