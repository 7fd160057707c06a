"""Every sampler on data whose score is known in closed form: order of convergence, limits, distribution of samples."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import Prediction, StepInfo, make_denoiser, read_output
from rdm_jax.diffusion.samplers import SAMPLERS, num_steps, sample, with_keys
from rdm_jax.diffusion.schedule import cosine, scaled_linear
from rdm_jax.diffusion.spacing import LCM_POINTS, SPACINGS, grid_through, make_grid

LINEAR, COSINE = scaled_linear(1000, 0.00085, 0.012), cosine(1000)
MEAN, DEVIATION = 1.5, 0.4
MIXTURE = (0.3, 0.7), (-1.5, 1.0), (0.2, 0.3)  # weights, means, deviations
ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "dpmpp_2s": 2, "dpmpp_2m": 2, "unipc": 3, "plms": 2}
STOCHASTIC = [("ddim", {"eta": 1.0}), ("ddpm", {}), ("euler", {"churn": 5.0}), ("heun", {"churn": 20.0})]
STOCHASTIC += [("dpmpp_2m_sde", {})]


def gaussian(x, info):
    """The optimal denoiser of data N(MEAN, DEVIATION^2)."""
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    eps = sigma * (x - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2)
    return Prediction(
        x0=MEAN + alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2) * (x - alpha * MEAN), eps=eps
    )


def mixture(x, info):
    """The optimal denoiser of a mixture of two Gaussians: each one's, weighted by its posterior probability."""
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    weights, means, deviations = (jnp.asarray(each, jnp.float32).reshape(1, 1, 1, 1, 2) for each in MIXTURE)
    variance = alpha**2 * deviations**2 + sigma**2
    away = x[..., None] - alpha * means
    logits = jnp.log(weights) - 0.5 * jnp.log(variance) - 0.5 * away**2 / variance
    x0 = jnp.sum(jax.nn.softmax(logits) * (means + alpha * deviations**2 / variance * away), axis=-1)
    return Prediction(x0=x0, eps=(x - alpha * x0) / sigma)


def keys(count):
    return image_keys(3, jnp.arange(count))


def noise(count=8, size=4):
    return normal(image_keys(4, jnp.arange(count)), (size, size, 4))


def marginal(alpha, sigma):
    return alpha * MEAN, math.sqrt(alpha**2 * DEVIATION**2 + sigma**2)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
@pytest.mark.slow
def test_the_error_falls_with_the_order(name, order):
    # The probability flow of Gaussian data keeps each sample's standard score: its end is known exactly. The grid lies
    # within the schedule; lambda goes from -1.5 to 2.5 in equal steps. UniPC's corrector adds an order.
    sampler, errors, counts = SAMPLERS[name](), [], np.array([20, 40, 80])
    for count in counts:
        grid = grid_through(LINEAR, LINEAR.time_of(np.linspace(-1.5, 2.5, count + 1)))
        (mean, deviation), (mean_end, deviation_end) = (marginal(grid.alpha[i], grid.sigma[i]) for i in (0, -1))
        scores = noise()
        last = sample(sampler, sampler.plan_on(grid, LINEAR), mean + deviation * scores, gaussian)
        errors.append(float(jnp.abs((last - mean_end) / deviation_end - scores).max()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.2), errors
    assert errors[-1] < 0.05


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in ORDERS), *STOCHASTIC, ("ddpm", {"variance": "large"})]
)
@pytest.mark.slow
def test_samples_have_the_distribution_of_the_data(name, options):
    sampler = SAMPLERS[name](**({"spacing": "trailing"} | options))
    steps = with_keys(sampler.plan(LINEAR, 150), keys(16))
    last = np.asarray(sample(sampler, steps, noise(16, 8), mixture)).reshape(-1)

    def cdf(x):
        return sum(w * stats.norm.cdf(x, m, d) for w, m, d in zip(*MIXTURE, strict=True))

    # 4096 values of a fixed seed: a shift of 0.05 is detected.
    assert stats.kstest(last, cdf).pvalue > 0.01
    assert stats.kstest(last + 0.05, cdf).pvalue < 1e-3


@pytest.mark.parametrize("spacing", [name for name in SPACINGS if name != "compvis"])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.slow
def test_the_exact_denoiser_of_one_image_returns_it(name, spacing):
    image, sampler = noise(2), SAMPLERS[name](spacing=spacing)

    def perfect(x, info):
        alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
        return Prediction(x0=image, eps=(x - alpha * image) / sigma)

    for count in (1, 2, 5):
        for schedule in (LINEAR, COSINE):
            steps = with_keys(sampler.plan(schedule, count), keys(2))
            if name == "plms" and schedule is COSINE:
                continue  # it divides by alpha, which is almost 0 at the start of the cosine schedule
            last = sample(sampler, steps, noise(2) * 0.5, perfect)
            np.testing.assert_allclose(last, image, atol=2e-4 if name == "plms" else 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddpm_is_ddim_with_eta_one_and_euler_is_ddim_without(spacing):
    for one, other in (
        (SAMPLERS["ddpm"](spacing=spacing), SAMPLERS["ddim"](spacing=spacing, eta=1.0)),
        (SAMPLERS["euler"](spacing=spacing), SAMPLERS["ddim"](spacing=spacing)),
    ):
        runs = [sample(each, with_keys(each.plan(LINEAR, 10), keys(2)), noise(2), mixture) for each in (one, other)]
        np.testing.assert_allclose(runs[0], runs[1], atol=2e-5)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "plms", "heun", "dpmpp_2s"])
def test_one_step_to_zero_noise_is_ddims(name):
    ddim, sampler = SAMPLERS["ddim"](spacing="trailing"), SAMPLERS[name](spacing="trailing")
    assert num_steps(sampler.plan(LINEAR, 1)) == 1
    for start in (sampler, ddim):
        last = sample(start, start.plan(LINEAR, 1), noise(2), mixture)
        np.testing.assert_allclose(last, mixture(noise(2), _level(LINEAR.signal[-1], LINEAR.noise[-1])).x0, atol=1e-4)


def _level(alpha, sigma):
    levels = {"alpha": jnp.float32(alpha), "sigma": jnp.float32(sigma)}
    return StepInfo(t=jnp.zeros(()), t_next=jnp.zeros(()), coefficients=levels)


@pytest.mark.parametrize(("name", "calls"), [("heun", 19), ("dpmpp_2s", 19), ("plms", 11), ("unipc", 10), ("ddpm", 10)])
def test_every_entry_of_a_plan_evaluates_the_network_once(name, calls):
    sampler = SAMPLERS[name](spacing="trailing")
    steps = sampler.plan(LINEAR, 10)
    assert num_steps(steps) == calls
    c = steps.coefficients
    np.testing.assert_allclose(c["alpha"] ** 2 + c["sigma"] ** 2, 1.0, atol=1e-6)
    assert float(c["sigma_next"][-1]) == 0.0 and float(c["alpha_next"][-1]) == 1.0


@pytest.mark.parametrize("name", SPACINGS)
@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_a_grid_decreases_within_the_schedule(name, schedule):
    for count in (1, 2, 10, 50, 250):
        if name == "lcm" and count > LCM_POINTS:
            with pytest.raises(UserError, match="250 sampling steps do not fit the spacing 'lcm'"):
                make_grid(schedule, count, name)
            continue
        grid = make_grid(schedule, count, name)
        assert len(grid) == count and (np.diff(grid.log_snr) > 0).all()
        assert grid.t.min() >= 0 and grid.t.max() <= 999
        np.testing.assert_allclose(grid.alpha**2 + grid.sigma**2, 1.0)
        assert grid.ends_without_noise == (name != "compvis")


def test_the_grids_of_diffusers():
    # timestep_spacing of diffusers' schedulers, for ten of a thousand (Lin et al., table 2).
    np.testing.assert_array_equal(make_grid(LINEAR, 10, "leading").t[:-1], np.arange(900, -1, -100))
    np.testing.assert_array_equal(make_grid(LINEAR, 10, "trailing").t[:-1], np.arange(999, 98, -100))
    np.testing.assert_array_equal(make_grid(LINEAR, 4, "linspace").t[:-1], [999, 666, 333, 0])
    karras = make_grid(LINEAR, 3, "karras")
    ratio = karras.sigma[:-1] / karras.alpha[:-1]
    ends = LINEAR.noise[[-1, 0]] / LINEAR.signal[[-1, 0]]
    np.testing.assert_allclose(ratio[[0, 2]], ends, rtol=1e-9)
    assert ratio[1] ** (1 / 7) == pytest.approx((ends ** (1 / 7)).mean(), rel=1e-9)
    np.testing.assert_allclose(np.diff(make_grid(LINEAR, 5, "log_snr").log_snr[:-1], n=2), 0.0, atol=1e-9)


def test_churn_adds_its_noise_up_to_the_most_of_the_schedule():
    sampler = SAMPLERS["euler"](churn=5.0, spacing="karras")
    c = {name: np.asarray(value, np.float64) for name, value in sampler.plan(LINEAR, 10).coefficients.items()}
    grid = make_grid(LINEAR, 10, "karras")
    sigma, sigma_hat = grid.sigma[:-1] / grid.alpha[:-1], c["sigma"] / c["alpha"]
    np.testing.assert_allclose(sigma_hat[1:], sigma[1:] * (1 + math.sqrt(2) - 1), rtol=1e-5)  # 5 / 10 exceeds the limit
    assert sigma_hat[0] == pytest.approx(sigma[0])
    np.testing.assert_allclose(c["churn_sigma"] ** 2 + sigma**2, sigma_hat**2, rtol=1e-4)
    few = SAMPLERS["euler"](churn=5.0, churn_from=1.0, churn_to=5.0, spacing="karras").plan(LINEAR, 10).coefficients
    np.testing.assert_array_equal(np.asarray(few["churn_sigma"]) > 0, (sigma >= 1) & (sigma <= 5))


def test_a_learned_variance_lies_between_the_two():
    sampler = SAMPLERS["ddpm"](variance="learned", spacing="trailing")
    steps = with_keys(sampler.plan(LINEAR, 10), keys(2))
    runs = {}
    for spread in (-1.0, 1.0):

        def network(x, t, context, spread=spread):
            return jnp.concatenate([0.1 * x, jnp.full_like(x, spread)], axis=-1)

        runs[spread] = sample(sampler, steps, noise(2), make_denoiser(network, None, "eps"))
    for spread, variance in ((-1.0, "small"), (1.0, "large")):
        fixed = SAMPLERS["ddpm"](variance=variance, spacing="trailing")
        alone = make_denoiser(lambda x, t, context: 0.1 * x, None, "eps")
        np.testing.assert_allclose(runs[spread], sample(fixed, steps, noise(2), alone), atol=1e-5)
    with pytest.raises(ValueError, match="predicts no variance"):
        sample(sampler, steps, noise(2), alone)
    info = _level(0.8, 0.6)
    assert read_output(noise(2).repeat(2, axis=-1), noise(2), info, "eps").log_variance is None


def test_invalid_options_are_refused():
    with pytest.raises(UserError, match="1001 sampling steps do not fit a schedule of 1000 timesteps; use 1 to 1000"):
        SAMPLERS["dpmpp_2m"]().plan(LINEAR, 1001)
    with pytest.raises(UserError, match="spacing 'karas'"):
        SAMPLERS["dpmpp_2m"](spacing="karas").plan(LINEAR, 10)
    with pytest.raises(UserError, match="variance 'huge'"):
        SAMPLERS["ddpm"](variance="huge")
    with pytest.raises(UserError, match="churn -1"):
        SAMPLERS["heun"](churn=-1.0)
    for name, options in STOCHASTIC:
        sampler = SAMPLERS[name](**options)
        with pytest.raises(ValueError, match="give the plan its keys"):
            sampler.step(sampler.init(noise(1)), jax.tree.map(lambda x: x[0], sampler.plan(LINEAR, 10)), gaussian)
    assert dataclasses.is_dataclass(SAMPLERS["unipc"])
