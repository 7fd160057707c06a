"""ILVR with every sampler, and its filter."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.samplers import SAMPLERS
from rdm_jax.guidance.ilvr import ilvr, low_pass
from tests.helpers.mixture import KNOWN, NOISE, mixture, short_run, unguided


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_images_have_the_low_frequencies_of_the_reference(name):
    last = short_run(name, mixture, [ilvr(KNOWN, 4, jnp.float32(-1.0), NOISE)])
    np.testing.assert_allclose(low_pass(jnp.asarray(last), 4), low_pass(KNOWN, 4), atol=1e-5)
    unconstrained = short_run(name, mixture, [ilvr(KNOWN, 4, jnp.float32(1000.0), NOISE)])
    np.testing.assert_allclose(unconstrained, unguided(name), atol=2e-5)


def test_a_factor_that_does_not_divide_the_size_is_refused_and_the_filter_is_a_projection():
    with pytest.raises(UserError, match="ILVR factor 3 does not divide 8x8"):
        low_pass(KNOWN, 3)
    np.testing.assert_allclose(low_pass(low_pass(KNOWN, 2), 2), low_pass(KNOWN, 2), atol=1e-6)
    np.testing.assert_allclose(low_pass(KNOWN, 8)[:, 0, 0], KNOWN.mean(axis=(1, 2)), atol=1e-6)
