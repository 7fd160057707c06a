"""Guidance by gradients: how it moves eps and x0, through the network or not, and how far at most."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import Prediction
from rdm_jax.guidance.gradient import FARTHEST, Objective, gradient_guidance
from tests.helpers.mixture import info_at, mixture


def test_a_gradient_moves_the_noise_and_x0_as_one():
    x, info = normal(image_keys(1, jnp.arange(5)), (2, 2, 3)), info_at(500)
    direction = normal(image_keys(2, jnp.arange(5)), (2, 2, 3))
    alpha, sigma = (np.float64(info.coefficients[name]) for name in ("alpha", "sigma"))
    weights = jnp.arange(5.0) / 4.0
    objective = Objective(lambda x_t, info: jnp.sum(x_t * direction, axis=(1, 2, 3)), weights)
    plain, guided = mixture(x, info), gradient_guidance([objective])(mixture)(x, info)
    moved = sigma * np.asarray(weights).reshape(5, 1, 1, 1) * np.asarray(direction)
    np.testing.assert_allclose(guided.eps, plain.eps - moved, atol=1e-5)
    np.testing.assert_allclose(alpha * guided.x0 + sigma * guided.eps, x, atol=1e-5)


@pytest.mark.parametrize("weight", [1e3, 1e30])
def test_the_shift_of_x0_is_limited(weight):
    x, info = normal(image_keys(1, jnp.arange(4)), (2, 2, 3)), info_at(999)
    direction = normal(image_keys(2, jnp.arange(4)), (2, 2, 3))
    weights = jnp.asarray([0.0, 1e-9, weight, -weight])
    objective = Objective(lambda x_t, info: jnp.sum(x_t * direction, axis=(1, 2, 3)), weights)
    plain, guided = mixture(x, info), gradient_guidance([objective])(mixture)(x, info)
    way = np.asarray(guided.x0 - plain.x0)
    lengths = np.sqrt(np.mean(np.square(way), axis=(1, 2, 3)))
    assert lengths[0] == 0 and lengths[1] < FARTHEST
    np.testing.assert_allclose(lengths[2:], FARTHEST, rtol=1e-4)
    # In the direction of the gradient still, and of the noise as of x0.
    along = np.asarray(direction) * (FARTHEST / np.sqrt(np.mean(np.square(direction), axis=(1, 2, 3), keepdims=True)))
    np.testing.assert_allclose(way[2:], np.stack([along[2], -along[3]]), rtol=1e-3, atol=1e-4)
    alpha, sigma = (np.float64(info.coefficients[name]) for name in ("alpha", "sigma"))
    np.testing.assert_allclose(alpha * guided.x0 + sigma * guided.eps, x, atol=1e-4)


def test_the_gradient_of_a_measure_of_x0_goes_through_the_network():
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
    guided = gradient_guidance(objectives)(gaussian)(x, info)
    np.testing.assert_allclose(guided.eps, gaussian(x, info).eps - sigma * (2.0 * slope + 0.5), atol=1e-5)


def test_terms_together_equal_terms_in_sequence():
    x, info = normal(image_keys(1, jnp.arange(3)), (2, 2, 1)), info_at(300)
    terms = [Objective(lambda x, info: jnp.sum(x**2, axis=(1, 2, 3)), 0.3)]
    terms += [Objective(lambda x, info: jnp.sum(jnp.sin(x), axis=(1, 2, 3)), -1.0)]
    together = gradient_guidance(terms)(mixture)(x, info)
    apart = gradient_guidance(terms[1:])(gradient_guidance(terms[:1])(mixture))(x, info)
    np.testing.assert_allclose(together.eps, apart.eps, atol=1e-6)
