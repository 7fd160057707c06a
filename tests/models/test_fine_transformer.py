"""The second stage of masked codes: what its logits depend on, and its parts against the networks they are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.models import TokenStates, TokenTransformer
from rdm_jax.models.condition import Condition, ImageTokens
from tests.helpers import fine, tiny


@pytest.fixture(scope="module")
def model():
    bundle = fine.bundle()
    return bundle.fine_transformer, bundle.params["fine_transformer"]


@pytest.fixture(scope="module")
def logits(model):
    module, params = model
    run = jax.jit(module.apply)
    return lambda codes, coarse, condition: np.asarray(run({"params": params}, codes, coarse, condition))


def inputs(seed=0):
    generator = np.random.default_rng(seed)
    codes, coarse = generator.integers(0, fine.CODES, (2, 256)), generator.integers(0, 12, (2, 64))
    return jnp.asarray(codes, jnp.int32), jnp.asarray(coarse, jnp.int32)


@pytest.mark.slow
def test_it_is_the_transformer_over_coarse_states_and_projected_tokens(model, logits):
    _, params = model
    (codes, coarse), tokens = inputs(), jax.random.normal(jax.random.key(0), (2, 3, tiny.WIDTH))
    states = TokenStates(12, 64, 16, 1, 2, head_channels=8).apply({"params": params["coarse"]}, coarse)
    projected = tokens @ params["context"]["kernel"] + params["context"]["bias"][None, None]
    inner = TokenTransformer(
        num_codes=20, num_tokens=256, width=16, depth=1, context_dim=16, head_channels=8, causal=False, square=4
    )
    weights = jnp.asarray([[1.0, 0.5, 0.0]] * 2)
    joined = Condition(jnp.concatenate([states, projected], 1), jnp.concatenate([jnp.ones((2, 64)), weights], 1))
    expected = inner.apply({"params": params["transformer"]}, codes, joined)
    np.testing.assert_allclose(logits(codes, coarse, Condition(tokens, weights)), expected, rtol=1e-4, atol=1e-5)


def test_one_coarse_code_and_one_fine_code_change_logits_everywhere(logits):
    (codes, coarse), condition = inputs(), Condition(jnp.ones((2, 1, tiny.WIDTH)))
    plain = logits(codes, coarse, condition)
    assert plain.shape == (2, 256, fine.CODES)
    changed = np.abs(logits(codes, coarse.at[0, -1].set((coarse[0, -1] + 1) % 12), condition) - plain)
    assert (changed[0].max(axis=-1) > 0).all() and changed[1].max() == 0
    # With one block, a fine code changes those of its square and those at its place in the others.
    changed = np.abs(logits(codes.at[0, -1].set((codes[0, -1] + 1) % 20), coarse, condition) - plain)[0].max(axis=-1)
    grid = changed.reshape(16, 16) > 0
    assert grid[12:, 12:].all() and grid[3::4, 3::4].all() and grid.sum() == 16 + 16 - 1


@pytest.mark.slow
def test_neighbors_of_weight_0_are_absent_and_images_are_further_tokens(logits):
    codes, coarse = inputs()
    tokens = jax.random.normal(jax.random.key(1), (2, 3, tiny.WIDTH))
    one = logits(codes, coarse, Condition(tokens[:, :1], jnp.ones((2, 1))))
    absent = logits(codes, coarse, Condition(tokens, jnp.asarray([[1.0, 0.0, 0.0]] * 2)))
    np.testing.assert_allclose(absent, one, rtol=1e-4, atol=1e-5)
    images = ImageTokens(tokens[:, None, 1:], jnp.ones((2, 1)))
    both = logits(codes, coarse, Condition(tokens[:, :1], images=images))
    np.testing.assert_allclose(both, logits(codes, coarse, Condition(tokens)), rtol=1e-4, atol=1e-5)
    assert np.abs(both - one).max() > 1e-3


def test_what_does_not_fit_is_refused(model):
    module, _ = model

    def refused(match, condition, **changes):
        changed = dataclasses.replace(module, parent=None, **changes)
        with pytest.raises(UserError, match=match):
            jax.eval_shape(changed.init, jax.random.key(0), *inputs(), condition)

    tokens = jnp.zeros((2, 1, tiny.WIDTH))
    refused("context tokens have 4 numbers, the second stage takes 16", Condition(jnp.zeros((2, 1, 4))))
    refused("does not support a vector beside the time", Condition(tokens, vector=jnp.zeros((2, 3))))
    refused("64 text tokens are too many; this encoder takes 63", Condition(tokens), coarse_tokens=63)
    refused("square=5 does not divide the side of a grid of 256 positions", Condition(tokens), square=5)
