"""The translator against its equations in NumPy, and its number of parameters against the thesis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_translator
from tests.helpers import tiny

SMALL = {"embed_dim": 6, "width": 8, "hidden": 10, "depth": 2}


def network(**changes):
    module = build_translator({**SMALL, **changes})
    return module, tiny.randomize(trees.unflatten(abstract_params(module)))


def test_the_thesis_has_32_million_parameters():
    count = sum(np.prod(leaf.shape) for leaf in abstract_params(build_translator({"embed_dim": 512})).values())
    block = 2 * 512 + (512 * 1024 + 1024) + (1024 * 512 + 512)
    ends = 2 * (512 * 512 + 512) + 2 * 512
    assert count == 30 * block + ends + 4 * 512 == 32_062_464  # 4: the statistics of texts and images


def test_it_computes_its_equations():
    module, params = network()
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)

    def dense(name, h):
        return h @ params[name]["kernel"] + params[name]["bias"]

    def norm(name, h):
        centered = h - h.mean(axis=1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + 1e-5)
        return scaled * params[name]["scale"] + params[name]["bias"]

    h = dense("in", (x - params["text_mean"]) / params["text_std"])
    for i in range(2):
        up = dense(f"block_{i}_up", norm(f"block_{i}_norm", h))
        h = h + dense(f"block_{i}_down", 0.5 * up * (1 + erf(up / np.sqrt(2))))
    expected = dense("out", norm("norm_out", h)) * params["image_std"] + params["image_mean"]
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


def test_with_all_of_a_block_dropped_its_last_bias_is_left():
    module, params = network(dropout=1.0)
    biases = params["block_0_down"]["bias"] + params["block_1_down"]["bias"]
    rest = {name: leaf for name, leaf in params.items() if not name.startswith("block")}
    rest["in"] = {**params["in"], "bias": params["in"]["bias"] + biases}
    x, rngs = jnp.ones((2, 6)), {"dropout": jax.random.key(0)}
    dropped = jax.jit(lambda x: module.apply({"params": params}, x, deterministic=False, rngs=rngs))(x)
    without = jax.jit(lambda x: build_translator({**SMALL, "depth": 0}).apply({"params": rest}, x))(x)
    np.testing.assert_allclose(dropped, without, rtol=1e-4, atol=1e-5)


def test_the_statistics_have_no_gradient_and_the_rest_has():
    module, params = network()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(module.apply({"params": params}, x) ** 2)))(params)
    still = {name for name, leaf in gradient.items() if not any(np.any(part) for part in jax.tree.leaves(leaf))}
    assert still == {"text_mean", "text_std", "image_mean", "image_std"}


def test_unknown_and_missing_settings_are_refused():
    with pytest.raises(UserError, match="unknown translator setting 'layers'"):
        build_translator({**SMALL, "layers": 3})
    with pytest.raises(UserError, match="the translator configuration lacks embed_dim"):
        build_translator({"width": 8})
