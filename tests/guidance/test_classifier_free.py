"""Classifier-free guidance: its limits, its closed form, the original's first step, one network call against two."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.diffusion.denoiser import StepInfo, make_denoiser
from rdm_jax.diffusion.parameterization import PREDICTIONS
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.diffusion.schedule import scaled_linear
from rdm_jax.guidance.classifier_free import classifier_free, classifier_free_denoiser

GOLDEN = os.environ.get("RDM_GOLDEN")
SHAPE = (3, 2, 2, 4)
INFO = StepInfo(
    t=jnp.int32(5), t_next=jnp.int32(0), coefficients={"alpha": jnp.float32(0.8), "sigma": jnp.float32(0.6)}
)


def _network(x, t, context):
    """Mixes image, time and condition, so that an error in any of them changes the output."""
    tokens = jnp.tanh(context["tokens"]).mean(axis=1)
    return jnp.sin(x + tokens[:, None, None, :]) + 0.1 * t.reshape(-1, 1, 1, 1).astype(jnp.float32)


def _contexts():
    given = {"tokens": jax.random.normal(jax.random.key(1), (3, 5, 4))}
    return given, jax.tree.map(jnp.zeros_like, given)


def _two_calls(scale, kind="eps"):
    given, null = _contexts()
    return classifier_free(make_denoiser(_network, null, kind), scale)(make_denoiser(_network, given, kind))


def _x_t():
    return jax.random.normal(jax.random.key(0), SHAPE)


@pytest.mark.parametrize(("scale", "which"), [(1.0, 0), (0.0, 1)])
def test_limits(scale, which):
    guided = _two_calls(jnp.float32(scale))(_x_t(), INFO)
    plain = make_denoiser(_network, _contexts()[which], "eps")(_x_t(), INFO)
    np.testing.assert_allclose(guided.eps, plain.eps, atol=1e-6)
    np.testing.assert_allclose(guided.x0, plain.x0, atol=1e-6)


def test_closed_form():
    given, null = (_network(_x_t(), jnp.full(3, 5), context) for context in _contexts())
    guided = _two_calls(jnp.float32(5.0))(_x_t(), INFO)
    np.testing.assert_allclose(guided.eps, null + 5 * (given - null), atol=1e-5)
    np.testing.assert_allclose(guided.x0, (_x_t() - 0.6 * guided.eps) / 0.8, atol=1e-5)


@pytest.mark.skipif(not GOLDEN, reason="RDM_GOLDEN is not set")
@pytest.mark.parametrize("scale", [2.0, [2.0, 2.0]])
def test_first_step_is_the_originals(scale):
    golden = np.load(Path(GOLDEN) / "ddim.npz")
    x_T, eps, x_next, x0 = (
        np.moveaxis(array, -3, -1)
        for array in (golden["x_T"], golden["eps_first"], golden["traj_x"][0], golden["traj_pred_x0"][0])
    )
    context = jnp.asarray(golden["context"])

    def network(x, t, contexts):
        # The original's batch is [unconditional, conditional], and so are its recorded outputs.
        np.testing.assert_array_equal(t, np.full(4, golden["t"][0]))
        np.testing.assert_array_equal(contexts, np.concatenate([np.zeros_like(context), context]))
        return jnp.asarray(eps)

    scale = jnp.asarray(scale, jnp.float32)
    denoiser = classifier_free_denoiser(network, context, jnp.zeros_like(context), scale, "eps")
    info = jax.tree.map(lambda leaf: leaf[0], DDIM().plan(scaled_linear(1000, 0.0015, 0.015), 10))
    carry, prediction = DDIM().step(DDIM().init(jnp.asarray(x_T)), info, denoiser)
    np.testing.assert_allclose(prediction.x0, x0, atol=1e-5 * np.abs(x0).max())
    np.testing.assert_allclose(carry.x, x_next, atol=1e-5 * np.abs(x_next).max())


def test_a_scale_for_each_image():
    scales = jnp.array([0.0, 1.0, 3.0])
    guided = _two_calls(scales)(_x_t(), INFO)
    for i, scale in enumerate(scales):
        np.testing.assert_allclose(guided.eps[i], _two_calls(scale)(_x_t(), INFO).eps[i], atol=1e-6)


@pytest.mark.parametrize("kind", list(PREDICTIONS))
@pytest.mark.parametrize("scale", [2.5, [0.0, 1.0, 3.0]])
def test_one_call_is_two(kind, scale):
    given, null = _contexts()
    scale = jnp.asarray(scale, jnp.float32)
    sizes = []

    def counted(x, t, context):
        sizes.append(x.shape[0])
        return _network(x, t, context)

    once = classifier_free_denoiser(counted, given, null, scale, kind)(_x_t(), INFO)
    twice = _two_calls(scale, kind)(_x_t(), INFO)
    assert sizes == [6]
    np.testing.assert_allclose(once.eps, twice.eps, atol=1e-5)
    np.testing.assert_allclose(once.x0, twice.x0, atol=1e-5)


def test_one_null_for_the_whole_batch():
    given, _ = _contexts()
    null = {"tokens": jax.random.normal(jax.random.key(2), (1, 1, 4))}
    repeated = {"tokens": jnp.tile(null["tokens"], (3, 5, 1))}
    scale = jnp.float32(2.0)
    one, all_of_them = (classifier_free_denoiser(_network, given, n, scale, "eps") for n in (null, repeated))
    np.testing.assert_array_equal(one(_x_t(), INFO).eps, all_of_them(_x_t(), INFO).eps)


def test_the_scale_is_traced():
    compiled = jax.jit(lambda scale: _two_calls(scale)(_x_t(), INFO).eps)
    compiled(jnp.float32(1.0))
    compiled(jnp.float32(7.5))
    assert compiled._cache_size() == 1
