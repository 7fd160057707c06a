"""Classifier guidance with the exact classifier samples the conditional distribution."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.samplers import SAMPLERS, sample, with_keys
from rdm_jax.guidance.classifier import class_likelihood
from rdm_jax.guidance.gradient import gradient_guidance
from tests.helpers.mixture import DEVIATIONS, MEANS, SCHEDULE, joint, mixture

COUNT = 4096


def classify(x, t):
    levels = jnp.asarray(SCHEDULE.signal, jnp.float32)[t], jnp.asarray(SCHEDULE.noise, jnp.float32)[t]
    alpha, sigma = (level.reshape(-1, 1, 1, 1, 1)[:, 0] for level in levels)
    return {"side": joint(x, alpha[..., None], sigma[..., None])[0][:, 0, 0, 0]}


@pytest.mark.parametrize(
    ("name", "options"), [("ddim", {}), ("dpmpp_2m", {}), ("ddpm", {"variance": "large"}), ("unipc", {})]
)
def test_the_exact_classifier_at_weight_one_samples_the_conditional_distribution(name, options):
    sampler = SAMPLERS[name](spacing="trailing", **options)
    keys = image_keys(0, jnp.arange(COUNT))
    targets = jnp.arange(COUNT) % 3 - 1  # none, the first, the second
    guide = gradient_guidance([class_likelihood(classify, {"side": targets}, 1.0)])
    steps = with_keys(sampler.plan(SCHEDULE, 100), keys)
    last = np.asarray(sample(sampler, steps, normal(keys, (1, 1, 1)), guide(mixture)))[:, 0, 0, 0]
    for k in (0, 1):
        law = stats.norm(MEANS[k], DEVIATIONS[k])
        assert stats.kstest(last[np.asarray(targets) == k], law.cdf).pvalue > 0.005
    unguided = last[np.asarray(targets) == -1]
    assert (unguided < 0).mean() == pytest.approx(0.3, abs=0.05)
