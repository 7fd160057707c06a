"""Gradients as guides, on data whose conditional laws are known in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import Prediction, StepInfo
from rdm_jax.diffusion.samplers import SAMPLERS, sample, with_keys
from rdm_jax.diffusion.schedule import cosine
from rdm_jax.guidance.classifier import class_likelihood
from rdm_jax.guidance.gradient import FARTHEST, Objective, gradient_guidance

SCHEDULE = cosine(1000)  # it ends without signal: standard normal noise is the right start
WEIGHTS, MEANS, DEVIATIONS = (0.3, 0.7), (-1.5, 1.0), (0.2, 0.3)
COUNT = 4096


def joint(x, alpha, sigma):
    """The logarithm of w_k N(x; alpha m_k, ...) of each component, [b, 1, 1, 1, 2]."""
    weights, means, deviations = (
        jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 1, 2) for v in (WEIGHTS, MEANS, DEVIATIONS)
    )
    variance = alpha**2 * deviations**2 + sigma**2
    away = x[..., None] - alpha * means
    return jnp.log(weights) - 0.5 * jnp.log(
        variance
    ) - 0.5 * away**2 / variance, means + alpha * deviations**2 / variance * away


def mixture(x, info):
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    logits, expected = joint(x, alpha, sigma)
    x0 = jnp.sum(jax.nn.softmax(logits) * expected, axis=-1)
    return Prediction(x0=x0, eps=(x - alpha * x0) / sigma)


def info_at(t, keys=None):
    told = {"alpha": jnp.float32(SCHEDULE.signal[t]), "sigma": jnp.float32(SCHEDULE.noise[t])}
    return StepInfo(t=jnp.int32(t), t_next=jnp.int32(0), coefficients=told, keys=keys)


def classify(x, t):
    levels = jnp.asarray(SCHEDULE.signal, jnp.float32)[t], jnp.asarray(SCHEDULE.noise, jnp.float32)[t]
    alpha, sigma = (level.reshape(-1, 1, 1, 1, 1)[:, 0] for level in levels)
    return {"side": joint(x, alpha[..., None], sigma[..., None])[0][:, 0, 0, 0]}


@pytest.mark.parametrize(
    ("name", "options"), [("ddim", {}), ("dpmpp_2m", {}), ("ddpm", {"variance": "large"}), ("unipc", {})]
)
def test_the_exact_classifier_at_weight_one_samples_the_conditional_law(name, options):
    sampler = SAMPLERS[name](spacing="trailing", **options)
    keys = image_keys(0, jnp.arange(COUNT))
    wanted = jnp.arange(COUNT) % 3 - 1  # any, the first, the second
    guide = gradient_guidance([class_likelihood(classify, {"side": wanted}, 1.0)])
    steps = with_keys(sampler.plan(SCHEDULE, 100), keys)
    last = np.asarray(sample(sampler, steps, normal(keys, (1, 1, 1)), guide(mixture)))[:, 0, 0, 0]
    for k in (0, 1):
        law = stats.norm(MEANS[k], DEVIATIONS[k])
        assert stats.kstest(last[np.asarray(wanted) == k], law.cdf).pvalue > 0.005
    unled = last[np.asarray(wanted) == -1]
    assert (unled < 0).mean() == pytest.approx(0.3, abs=0.05)


def test_a_gradient_moves_the_noise_and_x0_as_one():
    x, info = normal(image_keys(1, jnp.arange(5)), (2, 2, 3)), info_at(500)
    direction = normal(image_keys(2, jnp.arange(5)), (2, 2, 3))
    alpha, sigma = (np.float64(info.coefficients[name]) for name in ("alpha", "sigma"))
    weights = jnp.arange(5.0) / 4.0
    objective = Objective(lambda x_t, info: jnp.sum(x_t * direction, axis=(1, 2, 3)), weights)
    plain, led = mixture(x, info), gradient_guidance([objective])(mixture)(x, info)
    moved = sigma * np.asarray(weights).reshape(5, 1, 1, 1) * np.asarray(direction)
    np.testing.assert_allclose(led.eps, plain.eps - moved, atol=1e-5)
    np.testing.assert_allclose(alpha * led.x0 + sigma * led.eps, x, atol=1e-5)


@pytest.mark.parametrize("weight", [1e3, 1e30])
def test_a_gradient_moves_x0_no_farther_than_data_goes(weight):
    x, info = normal(image_keys(1, jnp.arange(4)), (2, 2, 3)), info_at(999)
    direction = normal(image_keys(2, jnp.arange(4)), (2, 2, 3))
    weights = jnp.asarray([0.0, 1e-9, weight, -weight])
    objective = Objective(lambda x_t, info: jnp.sum(x_t * direction, axis=(1, 2, 3)), weights)
    plain, led = mixture(x, info), gradient_guidance([objective])(mixture)(x, info)
    way = np.asarray(led.x0 - plain.x0)
    lengths = np.sqrt(np.mean(np.square(way), axis=(1, 2, 3)))
    assert lengths[0] == 0 and lengths[1] < FARTHEST
    np.testing.assert_allclose(lengths[2:], FARTHEST, rtol=1e-4)
    # In the direction of the gradient still, and of the noise as of x0.
    along = np.asarray(direction) * (FARTHEST / np.sqrt(np.mean(np.square(direction), axis=(1, 2, 3), keepdims=True)))
    np.testing.assert_allclose(way[2:], np.stack([along[2], -along[3]]), rtol=1e-3, atol=1e-4)
    alpha, sigma = (np.float64(info.coefficients[name]) for name in ("alpha", "sigma"))
    np.testing.assert_allclose(alpha * led.x0 + sigma * led.eps, x, atol=1e-4)


def test_a_measure_of_x0_is_led_through_the_network():
    # Of a Gaussian the estimate is linear in x_t: its slope is alpha s^2 / (alpha^2 s^2 + sigma^2).
    deviation = 0.4

    def gaussian(x, info):
        alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
        x0 = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * x
        return Prediction(x0=x0, eps=(x - alpha * x0) / sigma)

    x, info = normal(image_keys(1, jnp.arange(3)), (2, 2, 1)), info_at(300)
    alpha, sigma = (float(info.coefficients[name]) for name in ("alpha", "sigma"))
    slope = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
    objectives = [
        Objective(lambda x0, info: jnp.sum(x0, axis=(1, 2, 3)), 2.0, of_x0=True),
        Objective(lambda x_t, info: jnp.sum(x_t, axis=(1, 2, 3)), 0.5),
    ]
    led = gradient_guidance(objectives)(gaussian)(x, info)
    np.testing.assert_allclose(led.eps, gaussian(x, info).eps - sigma * (2.0 * slope + 0.5), atol=1e-5)


def test_terms_together_are_terms_one_after_the_other():
    x, info = normal(image_keys(1, jnp.arange(3)), (2, 2, 1)), info_at(300)
    terms = [Objective(lambda x, info: jnp.sum(x**2, axis=(1, 2, 3)), 0.3)]
    terms += [Objective(lambda x, info: jnp.sum(jnp.sin(x), axis=(1, 2, 3)), -1.0)]
    together = gradient_guidance(terms)(mixture)(x, info)
    apart = gradient_guidance(terms[1:])(gradient_guidance(terms[:1])(mixture))(x, info)
    np.testing.assert_allclose(together.eps, apart.eps, atol=1e-6)
