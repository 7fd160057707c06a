"""The prior's sequence: what each place sees, and how vectors are standardized."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_prior
from rdm_jax.models.prior import PriorBlock, Text, _causal_bias
from tests.helpers import tiny

SMALL = {"embed_dim": 6, "text_dim": 5, "state_dim": 7, "context_length": 4, "width": 16, "depth": 2, "heads": 2}


@pytest.fixture(scope="module")
def network():
    module = build_prior(SMALL)
    params = tiny.randomize(trees.unflatten(abstract_params(module)))
    return module, params, jax.jit(lambda *given: module.apply({"params": params}, *given))


def inputs(seed=0, batch=3):
    normal = np.random.default_rng(seed).normal
    present = jnp.asarray(np.arange(4)[None] < np.array([[2], [4], [1]]), jnp.float32)[:batch]
    text = Text(jnp.asarray(normal(size=(batch, 5))), jnp.asarray(normal(size=(batch, 4, 7))), present)
    text = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), text)
    return jnp.asarray(normal(size=(batch, 6)), jnp.float32), jnp.array([3.0, 500.0, 999.0])[:batch], text


def test_padding_has_no_influence_and_everything_else_has(network):
    _, _, apply = network
    x, t, text = inputs()
    before = np.asarray(apply(x, t, text))
    hidden = (1.0 - text.present)[..., None]
    np.testing.assert_allclose(
        apply(x, t, dataclasses.replace(text, states=text.states + 5.0 * hidden)), before, rtol=1e-4, atol=1e-5
    )
    for changed in (
        (x + 1.0, t, text),
        (x, t + 50.0, text),
        (x, t, dataclasses.replace(text, vector=text.vector + 1.0)),
        (x, t, dataclasses.replace(text, states=text.states + (1.0 - hidden))),
    ):
        assert (np.abs(np.asarray(apply(*changed)) - before).max(axis=1) > 1e-3).all()


def test_a_place_sees_itself_and_those_before_it():
    block, x = (
        PriorBlock(heads=2, dropout=0.0),
        jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 8)), jnp.float32),
    )
    bias = _causal_bias(jnp.ones((1, 5)))
    params = jax.jit(lambda: block.init(jax.random.key(0), x, bias, True))()
    apply = jax.jit(lambda x: block.apply(params, x, bias, True))
    noise = jnp.asarray(np.random.default_rng(1).normal(size=8), jnp.float32)  # a constant would vanish in the norm
    before, after = np.asarray(apply(x)), np.asarray(apply(x.at[:, 2].add(noise)))
    np.testing.assert_allclose(after[:, :2], before[:, :2], atol=1e-6)
    assert (np.abs(after - before)[:, 2:].max(axis=(0, 2)) > 1e-4).all()


def test_a_width_that_its_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="width=16 of the prior is not even, or no multiple of heads=3"):
        abstract_params(build_prior({**SMALL, "heads": 3}))


def test_restoring_undoes_standardizing(network):
    module, params, _ = network
    vectors = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    x = module.apply({"params": params}, jnp.asarray(vectors), method="standardize")
    np.testing.assert_allclose(x, (vectors - params["image_mean"]) / params["image_std"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(module.apply({"params": params}, x, method="restore"), vectors, rtol=1e-4, atol=1e-5)
