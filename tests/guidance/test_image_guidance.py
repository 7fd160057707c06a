"""Image guidance: one step against its equation, its limits in whole runs, and what is refused."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.diffusion.samplers import SAMPLERS
from rdm_jax.guidance.image_guidance import image_guidance
from tests.helpers.mixture import KNOWN, NOISE, info_at, mixture, short_run, unguided


def hook(weight, power):
    return image_guidance(KNOWN, jnp.float32(weight), jnp.float32(power), jnp.float32(1000.0))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_step_is_its_equation(power):
    for t_next in (0, 250, 980):
        info = dataclasses.replace(info_at(999), t_next=jnp.int32(t_next))
        moved = hook(0.3, power)(NOISE, info, mixture(NOISE, info))
        expected = NOISE + 0.3 * (t_next / 1000) ** power * (KNOWN - NOISE)
        np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_without_weight_nothing_changes_and_the_whole_way_ends_at_the_guide(name):
    np.testing.assert_allclose(short_run(name, mixture, [hook(0.0, 1.0)]), unguided(name), atol=2e-5)
    np.testing.assert_allclose(short_run(name, mixture, [hook(1.0, 0.0)]), KNOWN, atol=1e-6)


def test_a_larger_weight_ends_nearer_to_the_guide():
    distances = [
        float(np.abs(short_run("ddim", mixture, [hook(weight, 1.0)]) - KNOWN).mean()) for weight in (0.0, 0.1, 0.5)
    ]
    assert distances == sorted(distances, reverse=True) and distances[0] > 1.2 * distances[-1]
