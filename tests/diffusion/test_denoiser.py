"""The denoiser calls the network with its inputs and turns the output into a prediction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.diffusion.denoiser import StepInfo, make_denoiser
from rdm_jax.diffusion.parameterization import PREDICTIONS, target

SHAPE = (3, 2, 2, 1)


def _info(t, alpha, sigma):
    return StepInfo(t=t, t_next=t, coefficients={"alpha": alpha, "sigma": sigma})


@pytest.mark.parametrize("t", [jnp.int32(7), jnp.array([7, 7, 7], jnp.int32)])
def test_the_network_gets_a_time_per_image_and_its_context(t):
    def apply(x, times, context):
        assert times.shape == SHAPE[:1]
        return context["scale"] * x * times.reshape(-1, 1, 1, 1).astype(x.dtype)

    x_t = jax.random.normal(jax.random.key(0), SHAPE)
    denoiser = make_denoiser(apply, {"scale": jnp.float32(2)}, "eps")
    prediction = denoiser(x_t, _info(t, jnp.float32(0.8), jnp.float32(0.6)))
    np.testing.assert_allclose(prediction.eps, 14 * x_t, rtol=1e-6)
    assert prediction.log_variance is None


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_a_perfect_network_of_any_kind_gives_back_the_data(kind):
    x0, noise = (jax.random.normal(jax.random.key(i), SHAPE) for i in range(2))
    alpha, sigma = jnp.float32(0.8), jnp.float32(0.6)
    denoiser = make_denoiser(lambda x, t, context: target(kind, x0, noise, alpha, sigma), None, kind)
    prediction = denoiser(alpha * x0 + sigma * noise, _info(jnp.int32(3), alpha, sigma))
    np.testing.assert_allclose(prediction.x0, x0, atol=1e-5)
    np.testing.assert_allclose(prediction.eps, noise, atol=1e-5)


def test_a_network_in_bfloat16_leaves_the_prediction_in_float32():
    x_t = jnp.ones(SHAPE)
    denoiser = make_denoiser(lambda x, t, context: x.astype(jnp.bfloat16), None, "v")
    prediction = denoiser(x_t, _info(jnp.int32(3), jnp.float32(0.8), jnp.float32(0.6)))
    assert prediction.x0.dtype == prediction.eps.dtype == jnp.float32
