"""The mean of the context beside the time: its definition, its start at nothing, and tokens as a weighted set."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import build_denoiser
from rdm_jax.models.condition import Condition
from rdm_jax.models.unet import PooledContext
from tests.helpers.networks import UNET

POOLED = {**UNET, "pool_context": True}


@pytest.fixture(scope="module")
def inputs():
    """Latents, times and four tokens of two images."""
    keys = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(keys[0], (2, 4, 4, UNET["in_channels"]))
    return x, jax.random.uniform(keys[1], (2,), maxval=1000.0), jax.random.normal(keys[2], (2, 4, UNET["context_dim"]))


def test_it_is_two_layers_on_the_normalized_mean(random_params):
    layer, tokens = PooledContext(5), jax.random.normal(jax.random.key(0), (3, 4, 6))
    weights = jnp.array([[1.0, 0.5, 2.0, 0.0]] * 3)
    variables = random_params(layer, tokens, weights)
    params = trees.flatten(variables["params"])
    mean = np.average(tokens, axis=1, weights=np.asarray(weights[0], np.float64))
    normal = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-6)
    hidden = normal * params["norm/scale"] + params["norm/bias"]
    hidden = hidden @ params["hidden/kernel"] + params["hidden/bias"]
    expected = hidden / (1 + np.exp(-hidden)) @ params["out/kernel"] + params["out/bias"]
    np.testing.assert_allclose(layer.apply(variables, tokens, weights), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_new_one_changes_nothing(inputs):
    x, t, tokens = inputs
    params = build_denoiser(POOLED).init(jax.random.key(0), x, t, Condition(tokens))["params"]
    # The last convolution starts at zero too, so that every output would be equal.
    params["conv_out"]["kernel"] = jax.random.normal(jax.random.key(1), params["conv_out"]["kernel"].shape)
    without = {name: part for name, part in params.items() if name != "context"}
    outputs = [
        build_denoiser(settings).apply({"params": own}, x, t, Condition(tokens))
        for settings, own in ((POOLED, params), (UNET, without))
    ]
    assert np.abs(outputs[0]).max() > 0.1
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_context_stays_a_weighted_set(inputs, random_params):
    network, (x, t, tokens) = build_denoiser(POOLED), inputs
    params, weights = random_params(network, *network.smallest_inputs), jnp.array([[1.0, 0.0, 1.0, 2.0]] * 2)

    @jax.jit
    def outputs(params):
        conditions = {
            "all": Condition(tokens),
            "reversed": Condition(tokens[:, ::-1]),
            "weighted": Condition(tokens, weights),
            "by pixel": Condition(tokens, jnp.broadcast_to(weights[:, None, None], (2, 4, 4, 4))),
            "repeated": Condition(tokens[:, jnp.array([3, 0, 2, 3])]),
            "none": Condition(tokens[:, :0]),
            "zeros": Condition(jnp.zeros_like(tokens[:, :1])),
        }
        return {name: network.apply(params, x, t, condition) for name, condition in conditions.items()}

    out = outputs(params)
    for one, other in (("reversed", "all"), ("weighted", "repeated"), ("by pixel", "repeated"), ("none", "zeros")):
        np.testing.assert_allclose(out[one], out[other], rtol=1e-4, atol=1e-5)
    assert np.abs(out["weighted"] - out["all"]).max() > 1e-3


def test_it_reaches_blocks_without_attention(inputs, random_params):
    settings = {**POOLED, "attention_resolutions": [], "middle_attention": False}
    network, (x, t, tokens) = build_denoiser(settings), inputs
    params = random_params(network, *network.smallest_inputs)
    images = [network.apply(params, x, t, Condition(each)) for each in (tokens, tokens + jnp.arange(6.0)[None, None])]
    assert np.abs(images[0] - images[1]).max() > 1e-3


def test_attention_blocks_are_refused(inputs):
    x, t, tokens = inputs
    network = build_denoiser({**POOLED, "attention": "block"})
    with pytest.raises(UserError, match="pool_context needs cross-attention; set attention='transformer'"):
        jax.eval_shape(network.init, jax.random.key(0), x, t, Condition(tokens))
