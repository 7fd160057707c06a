"""Projection onto a known region with every sampler."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_jax.diffusion.samplers import SAMPLERS
from rdm_jax.guidance.project import projection
from tests.helpers.mixture import KNOWN, MASK, mixture, short_run, unguided


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_known_region_stays_and_the_rest_is_generated(name):
    last = short_run(name, projection(KNOWN, MASK)(mixture))
    np.testing.assert_allclose(last[:, :, :4], KNOWN[:, :, :4], atol=2e-4)
    np.testing.assert_allclose(last[:, :, 4:], unguided(name)[:, :, 4:], atol=1e-5)
