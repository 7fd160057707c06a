"""The guidance scale as an input of a network."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.models import build_denoiser
from rdm_jax.models.condition import Condition
from rdm_jax.models.layers import guidance_embedding
from tests.models.test_backbones import TRANSFORMERS, UNET

NETWORKS = {"unet": UNET, "dit": TRANSFORMERS["dit, cross_attention"], "uvit": TRANSFORMERS["uvit, tokens"]}


def test_the_embedding_equals_the_original_program(golden):
    data = np.load(golden / "heads2/fewstep/lcm_distillation.npz")
    np.testing.assert_allclose(guidance_embedding(jnp.asarray(data["w"]), 16), data["w_embedding"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_a_scale_of_zero_embedding_changes_nothing_and_a_trained_one_does(kind, random_params):
    plain, taking = (build_denoiser({**NETWORKS[kind], **more}) for more in ({}, {"guidance_dim": 8}))
    side = taking.smallest_inputs[0].shape[1]
    x, t = jax.random.normal(jax.random.key(0), (3, side, side, taking.in_channels)), jnp.asarray([5.0, 400.0, 900.0])
    tokens = jax.random.normal(jax.random.key(1), (3, 2, taking.context_dim))
    params = random_params(taking, x, t, Condition(tokens))["params"]
    kernel = params["time"]["guidance"]
    assert kernel.shape[0] == 8 and "time" not in random_params(plain, x, t, Condition(tokens))["params"]
    scales = Condition(tokens, guidance=jnp.asarray([1.0, 2.0, 4.0]))

    @jax.jit
    def outputs(params, kernel):
        with_kernel = {**params, "time": {"guidance": kernel}}
        return [taking.apply({"params": with_kernel}, x, t, one) for one in (scales, Condition(tokens))]

    without = plain.apply({"params": {k: v for k, v in params.items() if k != "time"}}, x, t, Condition(tokens))
    for output in outputs(params, jnp.zeros_like(kernel)):
        np.testing.assert_allclose(output, without, atol=1e-5)
    given, none = outputs(params, kernel)
    np.testing.assert_allclose(given[0], none[0], atol=1e-5)  # no scale is scale 1
    assert np.abs(given[1:] - none[1:]).max() > 1e-4
    with pytest.raises(UserError, match="does not support a guidance scale beside the time"):
        plain.apply({"params": params}, x, t, scales)


def test_a_size_that_is_no_embedding_is_refused():
    network = build_denoiser({**UNET, "guidance_dim": 3})
    with pytest.raises(UserError, match="guidance_dim=3 is out of range; give an even number, 4 or more"):
        jax.eval_shape(network.init, jax.random.key(0), *network.smallest_inputs)


def test_the_scale_is_an_optional_field():
    assert Condition(guidance=jnp.ones(2)).features == ("guidance",)
    assert dataclasses.replace(Condition(), guidance=None).features == ()
