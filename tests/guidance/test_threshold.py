"""Thresholds bound the predicted x0, and eps goes with it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.diffusion.denoiser import Prediction
from rdm_jax.guidance.threshold import dynamic_thresholding, static_thresholding
from tests.helpers.mixture import NOISE, info_at, mixture


@pytest.mark.parametrize(
    "guide", [static_thresholding(jnp.float32(0.5)), dynamic_thresholding(jnp.float32(0.9), jnp.float32(0.5))]
)
def test_x0_is_bounded_and_still_consistent_with_eps(guide):
    x, info = 3.0 * NOISE, info_at(300)
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    bounded = guide(mixture)(x, info)
    assert np.abs(mixture(x, info).x0).max() > 1 and np.abs(bounded.x0).max() <= 0.5 + 1e-6
    np.testing.assert_allclose(alpha * bounded.x0 + sigma * bounded.eps, x, atol=1e-5)


def test_the_dynamic_threshold_rescales_by_the_quantile_and_leaves_images_within_the_bound():
    def identity(x, info):
        return Prediction(x0=x, eps=jnp.zeros_like(x))

    x = jnp.stack([jnp.linspace(-4.0, 4.0, 12).reshape(2, 2, 3), jnp.linspace(-0.5, 0.5, 12).reshape(2, 2, 3)])
    got = dynamic_thresholding(jnp.float32(0.8), jnp.float32(1.0))(identity)(x, info_at(300)).x0
    largest = np.quantile(np.abs(np.asarray(x[0])), 0.8)
    np.testing.assert_allclose(got[0], np.clip(x[0], -largest, largest) / largest, atol=1e-6)
    np.testing.assert_array_equal(got[1], x[1])
