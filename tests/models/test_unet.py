"""The U-Net's size, symmetries and errors; tests/convert compares its outputs with the original's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_denoiser
from rdm_jax.models.condition import Condition
from rdm_jax.models.layers import GroupNorm, LayerNorm, timestep_embedding
from tests.helpers.networks import UNET


def _arguments(unet, *, batch=2, size=None, tokens=4):
    size = size or (2 * unet.size_multiple, unet.size_multiple)
    keys = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(keys[0], (batch, *size, unet.in_channels))
    t = jax.random.uniform(keys[1], (batch,), maxval=1000.0)
    return x, t, Condition(jax.random.normal(keys[2], (batch, tokens, unet.context_dim)))


@pytest.fixture(scope="module")
def tiny(random_params):
    """A tiny U-Net, random parameters, and the two applied."""
    unet = build_denoiser(UNET)
    return unet, random_params(unet, *_arguments(unet)), jax.jit(unet.apply)


def test_parameters_are_initialized_in_float32():
    assert {leaf.dtype for leaf in abstract_params(build_denoiser({**UNET, "dtype": "bfloat16"})).values()} == {
        jnp.dtype("float32")
    }


def test_residual_branches_are_initialized_to_zero():
    unet = build_denoiser(UNET)
    # Only what is returned is compiled.
    params = jax.jit(lambda key: _kernels(unet.init(key, *_arguments(unet))["params"]))(jax.random.key(0))
    assert {name.split("/")[-2] for name in params} == {"conv2", "proj_out", "conv_out"}
    assert not any(kernel.any() for kernel in params.values())


def _kernels(params):
    ends = ("conv2/kernel", "proj_out/kernel", "conv_out/kernel")
    return {name: kernel for name, kernel in trees.flatten(params).items() if name.endswith(ends)}


@pytest.mark.slow
def test_the_context_is_a_set(tiny):
    unet, params, apply = tiny
    x, t, condition = _arguments(unet)
    tokens = condition.tokens
    out = apply(params, x, t, condition)
    assert out.shape == (2, 4, 2, 4)
    np.testing.assert_allclose(apply(params, x, t, Condition(tokens[:, ::-1])), out, rtol=1e-4, atol=1e-5)
    other = apply(params, x, t, Condition(tokens.at[:, 2].add(1.0)))
    assert np.abs(other - out).max() > 1e-3


@pytest.mark.slow
def test_a_repeated_token_equals_one(tiny):
    unet, params, apply = tiny
    x, t, condition = _arguments(unet, tokens=1)
    four = apply(params, x, t, Condition(jnp.repeat(condition.tokens, 4, axis=1)))
    np.testing.assert_allclose(four, apply(params, x, t, condition), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_no_tokens_equal_zero_tokens(tiny):
    unet, params, apply = tiny
    x, t, condition = _arguments(unet)
    none = apply(params, x, t, Condition(condition.tokens[:, :0]))
    zeros = apply(params, x, t, Condition(jnp.zeros_like(condition.tokens)))
    np.testing.assert_allclose(none, zeros, rtol=1e-4, atol=1e-5)


def test_images_of_a_batch_are_independent(tiny):
    unet, params, apply = tiny
    arguments = _arguments(unet)
    out = apply(params, *arguments)
    changed = apply(params, *jax.tree.map(lambda argument: argument.at[0].add(1.0), arguments))
    np.testing.assert_allclose(changed[1], out[1], rtol=1e-4, atol=1e-5)
    assert np.abs(changed[0] - out[0]).max() > 1e-3


@pytest.mark.slow
def test_recomputation_changes_no_gradient(tiny):
    unet, params, _ = tiny
    x, t, condition = _arguments(unet)

    def gradient(network):
        return jax.jit(jax.grad(lambda x, p: jnp.mean(network.apply(p, x, t, condition) ** 2)))(x, params)

    np.testing.assert_allclose(gradient(unet.clone(remat=True)), gradient(unet), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_dropout_has_its_own_random_stream(tiny):
    unet, params, apply = tiny
    dropping, arguments = unet.clone(dropout=0.5), _arguments(unet)

    @jax.jit
    def noisy(params, key):
        return dropping.apply(params, *arguments, deterministic=False, rngs={"dropout": key})

    first, again, second = (noisy(params, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 1e-3
    quiet = jax.jit(dropping.apply)(params, *arguments)
    np.testing.assert_allclose(quiet, apply(params, *arguments), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_is_close_to_float32_and_returns_float32(tiny):
    unet, params, apply = tiny
    arguments = _arguments(unet)
    # jax.nn.dot_product_attention itself promotes types where they are not float32.
    with jax.numpy_dtype_promotion("standard"):
        half = jax.jit(unet.clone(dtype="bfloat16").apply)(params, *arguments)
    full = apply(params, *arguments)
    assert half.dtype == jnp.float32
    assert np.abs(half - full).mean() < 0.05 * np.abs(full).mean()


@pytest.mark.parametrize(
    ("change", "size", "message"),
    [
        ({}, (4, 7), "latent size 4x7 is not allowed; height and width must be multiples of 2"),
        ({}, (0, 2), "latent size 0x2"),
        ({"num_head_channels": 5}, (2, 2), "num_head_channels=5 does not divide 32 channels"),
        ({"num_groups": 32}, (2, 2), "num_groups=32 does not divide 16 channels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, size, message):
    unet = build_denoiser({**UNET, **change})
    x, context = jnp.zeros((1, *size, 3)), jnp.zeros((1, 1, 6))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(unet.init, jax.random.key(0), x, jnp.zeros(1), Condition(context))


def test_wrong_channels_and_tokens_are_refused(tiny):
    unet, params, _ = tiny
    x, t, condition = _arguments(unet)
    with pytest.raises(UserError, match="the latent has 2 channels, the U-Net takes 3"):
        unet.apply(params, x[..., :2], t, condition)
    with pytest.raises(UserError, match="context tokens have 5 numbers, the U-Net takes 6"):
        unet.apply(params, x, t, Condition(condition.tokens[..., :5]))


def test_configurations_are_checked():
    assert build_denoiser(UNET).channel_mult == (1, 2)
    with pytest.raises(UserError, match="unknown denoiser unet setting 'chanel_mult'; did you mean 'channel_mult'"):
        build_denoiser({**UNET, "chanel_mult": [1]})
    with pytest.raises(UserError, match="lacks in_channels"):
        build_denoiser({k: v for k, v in UNET.items() if k != "in_channels"})


def test_time_embedding_is_a_row_of_cosines_then_sines():
    t, dim = np.array([0.0, 1.0, 999.0]), 8
    angles = t[:, None] * 10000.0 ** (-np.arange(4) / 4)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(timestep_embedding(jnp.asarray(t, jnp.float32), dim), expected, atol=1e-4)


def test_norms_follow_their_definition_at_a_large_mean():
    x = np.random.default_rng(0).normal(100.0, 0.5, (2, 3, 5, 8)).astype(np.float32)
    groups = x.astype(np.float64).reshape(2, 15, 4, 2)
    mean, var = groups.mean(axis=(1, 3), keepdims=True), groups.var(axis=(1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    out, params = GroupNorm(4).init_with_output(jax.random.key(0), jnp.asarray(x))
    np.testing.assert_allclose(out, expected, atol=2e-3)
    changed = {"params": {"scale": jnp.full(8, 2.0), "bias": jnp.arange(8.0)}}
    assert jax.tree.structure(changed) == jax.tree.structure(params)
    np.testing.assert_allclose(GroupNorm(4).apply(changed, jnp.asarray(x)), 2 * expected + np.arange(8), atol=4e-3)
    rows = x.astype(np.float64)
    expected = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-5)
    out, _ = LayerNorm().init_with_output(jax.random.key(0), jnp.asarray(x))
    np.testing.assert_allclose(out, expected, atol=2e-3)
