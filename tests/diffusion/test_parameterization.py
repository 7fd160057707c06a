"""All parameterizations are equivalent: cycles through all pairs return to the start."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.parameterization import PREDICTIONS, target, to_prediction

SHAPE = (3, 2, 4, 5)


def _x0_noise():
    return tuple(jax.random.normal(jax.random.key(i), SHAPE) for i in range(2))


def _levels(angle):
    return jnp.cos(jnp.float32(angle)), jnp.sin(jnp.float32(angle))


@pytest.mark.parametrize("angle", [0.2, 0.8, 1.4])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(PREDICTIONS, repeat=2)))
def test_cycle(first, second, angle):
    x0, noise = _x0_noise()
    alpha, sigma = _levels(angle)
    x_t = alpha * x0 + sigma * noise
    there = to_prediction(target(first, x0, noise, alpha, sigma), x_t, alpha, sigma, first)
    back = to_prediction(target(second, there.x0, there.eps, alpha, sigma), x_t, alpha, sigma, second)
    np.testing.assert_allclose(back.x0, x0, atol=1e-4)
    np.testing.assert_allclose(back.eps, noise, atol=1e-4)


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_any_output_splits_x_t_exactly(kind):
    # Also for outputs that are wrong: alpha x0 + sigma eps is x_t, whatever the output.
    x_t, output = _x0_noise()
    alpha, sigma = _levels(0.7)
    prediction = to_prediction(output, x_t, alpha, sigma, kind)
    np.testing.assert_allclose(alpha * prediction.x0 + sigma * prediction.eps, x_t, atol=1e-5)


def test_v_is_the_velocity_along_the_circle():
    # Salimans & Ho: v = d x_phi / d phi at x_phi = cos(phi) x0 + sin(phi) eps.
    x0, noise = _x0_noise()
    phi = jnp.float32(0.6)
    _, velocity = jax.jvp(lambda p: jnp.cos(p) * x0 + jnp.sin(p) * noise, (phi,), (jnp.ones_like(phi),))
    np.testing.assert_allclose(target("v", x0, noise, jnp.cos(phi), jnp.sin(phi)), velocity, atol=1e-6)


def test_v_needs_no_division_at_either_end():
    x_t, output = _x0_noise()
    zero, one = jnp.float32(0), jnp.float32(1)
    np.testing.assert_array_equal(to_prediction(output, x_t, zero, one, "v").x0, -output)
    np.testing.assert_array_equal(to_prediction(output, x_t, one, zero, "v").eps, output)


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_levels_per_image_do_what_a_loop_over_images_does(kind):
    x_t, output = _x0_noise()
    alpha, sigma = _levels(np.array([0.2, 0.7, 1.3]))
    together = to_prediction(output, x_t, alpha, sigma, kind)
    for i in range(SHAPE[0]):
        alone = to_prediction(output[i : i + 1], x_t[i : i + 1], alpha[i], sigma[i], kind)
        np.testing.assert_allclose(together.x0[i], alone.x0[0], rtol=1e-6)
        np.testing.assert_allclose(together.eps[i], alone.eps[0], rtol=1e-6)


def test_an_unknown_kind_is_refused():
    x0, noise = _x0_noise()
    with pytest.raises(UserError, match=r"unknown prediction 'epsilon'.*'eps'"):
        target("epsilon", x0, noise, *_levels(0.5))
