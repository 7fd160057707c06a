"""Inpainting by blending with every sampler: the known region is exact, the rest unaffected, soft masks mix."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.diffusion.samplers import SAMPLERS
from rdm_jax.guidance.inpaint import inpainting
from tests.helpers.mixture import KNOWN, MASK, NOISE, mixture, short_run, unguided


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_known_region_is_exact_and_the_rest_is_generated(name):
    last = short_run(name, mixture, [inpainting(KNOWN, MASK, NOISE)])
    np.testing.assert_array_equal(last[:, :, :4], KNOWN[:, :, :4])
    # Pixels are independent in this data: the rest is what it would have been.
    np.testing.assert_allclose(last[:, :, 4:], unguided(name)[:, :, 4:], atol=1e-5)
    assert np.abs(last[:, :, 4:] - np.asarray(KNOWN)[:, :, 4:]).max() > 0.5


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_soft_mask_mixes(name):
    soft = short_run(name, mixture, [inpainting(KNOWN, 0.5 * jnp.ones_like(MASK), NOISE)])
    assert np.abs(soft - np.asarray(KNOWN)).mean() < np.abs(unguided(name) - np.asarray(KNOWN)).mean()
