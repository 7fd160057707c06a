"""What is known stays: inpainting, projection and ILVR with every sampler; thresholding."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import Prediction
from rdm_jax.diffusion.samplers import SAMPLERS, sample, with_keys
from rdm_jax.diffusion.schedule import scaled_linear
from rdm_jax.guidance.ilvr import ilvr, low_pass
from rdm_jax.guidance.inpaint import inpainting
from rdm_jax.guidance.project import projection
from rdm_jax.guidance.threshold import dynamic_thresholding, static_thresholding
from tests.guidance.test_gradient import info_at, mixture

SCHEDULE = scaled_linear(1000, 0.00085, 0.012)
KEYS = image_keys(0, jnp.arange(2))
NOISE, KNOWN = (normal(image_keys(seed, jnp.arange(2)), (8, 8, 3)) for seed in (1, 2))
MASK = jnp.zeros((1, 8, 8, 1)).at[:, :, 4:].set(1.0)


def run(name, denoiser, hooks=(), spacing="trailing"):
    sampler = SAMPLERS[name](spacing=spacing)
    return np.asarray(sample(sampler, with_keys(sampler.plan(SCHEDULE, 12), KEYS), NOISE, denoiser, hooks))


@pytest.mark.parametrize("name", SAMPLERS)
def test_inpainting_leaves_the_known_part_exactly_and_paints_the_rest(name):
    last = run(name, mixture, [inpainting(KNOWN, MASK, NOISE)])
    np.testing.assert_array_equal(last[:, :, :4], KNOWN[:, :, :4])
    free = run(name, mixture)
    # Pixels are independent in this data: the rest is what it would have been.
    np.testing.assert_allclose(last[:, :, 4:], free[:, :, 4:], atol=1e-5)
    assert np.abs(last[:, :, 4:] - np.asarray(KNOWN)[:, :, 4:]).max() > 0.5


@pytest.mark.parametrize("name", SAMPLERS)
def test_projection_leaves_the_known_part_and_a_soft_mask_mixes(name):
    last = run(name, projection(KNOWN, MASK)(mixture))
    np.testing.assert_allclose(last[:, :, :4], KNOWN[:, :, :4], atol=2e-4)
    np.testing.assert_allclose(last[:, :, 4:], run(name, mixture)[:, :, 4:], atol=1e-5)
    soft = run(name, mixture, [inpainting(KNOWN, 0.5 * jnp.ones_like(MASK), NOISE)])
    assert np.abs(soft - np.asarray(KNOWN)).mean() < np.abs(run(name, mixture) - np.asarray(KNOWN)).mean()


@pytest.mark.parametrize("name", SAMPLERS)
def test_ilvr_gives_the_low_frequencies_of_the_reference(name):
    last = run(name, mixture, [ilvr(KNOWN, 4, jnp.float32(-1.0), NOISE)])
    np.testing.assert_allclose(low_pass(jnp.asarray(last), 4), low_pass(KNOWN, 4), atol=1e-5)
    early = run(name, mixture, [ilvr(KNOWN, 4, jnp.float32(1000.0), NOISE)])
    np.testing.assert_allclose(early, run(name, mixture), atol=2e-5)


def test_a_filter_that_does_not_fit_is_refused_and_one_that_does_projects():
    with pytest.raises(UserError, match="ILVR factor 3 does not divide 8x8"):
        low_pass(KNOWN, 3)
    np.testing.assert_allclose(low_pass(low_pass(KNOWN, 2), 2), low_pass(KNOWN, 2), atol=1e-6)
    np.testing.assert_allclose(low_pass(KNOWN, 8)[:, 0, 0], KNOWN.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    "guide", [static_thresholding(jnp.float32(0.5)), dynamic_thresholding(jnp.float32(0.9), jnp.float32(0.5))]
)
def test_thresholds_bound_x0_and_keep_what_it_belongs_to(guide):
    x, info = 3.0 * NOISE, info_at(300)
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    bounded = guide(mixture)(x, info)
    assert np.abs(mixture(x, info).x0).max() > 1 and np.abs(bounded.x0).max() <= 0.5 + 1e-6
    np.testing.assert_allclose(alpha * bounded.x0 + sigma * bounded.eps, x, atol=1e-5)


def test_the_dynamic_threshold_shrinks_by_the_quantile_and_leaves_what_lies_within():
    def stated(x, info):
        return Prediction(x0=x, eps=jnp.zeros_like(x))

    x = jnp.stack([jnp.linspace(-4.0, 4.0, 12).reshape(2, 2, 3), jnp.linspace(-0.5, 0.5, 12).reshape(2, 2, 3)])
    got = dynamic_thresholding(jnp.float32(0.8), jnp.float32(1.0))(stated)(x, info_at(300)).x0
    largest = np.quantile(np.abs(np.asarray(x[0])), 0.8)
    np.testing.assert_allclose(got[0], np.clip(x[0], -largest, largest) / largest, atol=1e-6)
    np.testing.assert_array_equal(got[1], x[1])
