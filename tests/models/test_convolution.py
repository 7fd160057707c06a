"""The fast convolutions against XLA's own, on both sides of every size at which the algorithm changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from rdm_jax.models import convolution
from rdm_jax.models.layers import Conv3x3

FUNCTIONS = {"convolve": convolution.convolve, "convolve_upsampled": convolution.convolve_upsampled}
# More than a band, one band, odd sizes, few pixels with many channels, few channels; not square.
SIZES = (2, 64, 80, 48, 64), (1, 32, 32, 320, 256), (2, 15, 18, 64, 96), (1, 8, 8, 96, 16), (1, 16, 16, 3, 8)


def _inputs(b, h, w, c, d):
    normal = np.random.default_rng(0).standard_normal
    x, kernel = normal((b, h, w, c), np.float32), normal((3, 3, c, d), np.float32) / np.float32(np.sqrt(9 * c))
    return jnp.asarray(x), jnp.asarray(kernel)


def _direct(name, x, kernel):
    x = x.repeat(2, axis=1).repeat(2, axis=2) if name == "convolve_upsampled" else x
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_outputs_are_those_of_the_convolution(name, size):
    x, kernel = _inputs(*size)
    np.testing.assert_allclose(jax.jit(FUNCTIONS[name])(x, kernel), _direct(name, x, kernel), atol=2e-5)


def test_large_inputs_are_computed_in_bands_and_small_ones_over_patches(monkeypatch):
    calls = []
    for name in ("_tiles", "_over_patches"):
        function = getattr(convolution, name)
        monkeypatch.setattr(convolution, name, lambda *a, n=name, f=function: calls.append((n, a[0].shape)) or f(*a))
    monkeypatch.setattr(convolution, "TILES", 512)
    for size in (2, 64, 80, 160, 64), SIZES[1], SIZES[3], SIZES[4]:
        jax.eval_shape(convolution._convolve_on_cpu, *_inputs(*size))
    assert calls == [("_tiles", (2, 14, 82, 160)), ("_tiles", (1, 34, 34, 320)), ("_over_patches", (1, 8, 8, 96))]


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("rows", [22, 24, 40])
def test_bands_join_without_seams(monkeypatch, name, rows):
    monkeypatch.setattr(convolution, "TILES", 256)
    monkeypatch.setattr(convolution, "LEAST_PRODUCTS", 0)
    x, kernel = _inputs(1, rows, 40, 48, 48)
    np.testing.assert_allclose(jax.jit(FUNCTIONS[name])(x, kernel), _direct(name, x, kernel), atol=2e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scipy_agrees(name):
    x, kernel = _inputs(1, 6, 4, 2, 1)
    out = jax.jit(FUNCTIONS[name])(x, kernel)[0, :, :, 0]
    x = x.repeat(2, axis=1).repeat(2, axis=2) if name == "convolve_upsampled" else x
    planes = [signal.correlate2d(x[0, :, :, i], kernel[:, :, i, 0], mode="same") for i in range(2)]
    np.testing.assert_allclose(out, sum(planes), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_the_convolution(name, monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_PRODUCTS", 0)
    x, kernel = _inputs(1, 16, 32, 48, 48)

    def loss(function, *inputs):
        return (jnp.sin(function(*inputs)) ** 2).sum()

    ours = jax.jit(jax.grad(lambda *inputs: loss(FUNCTIONS[name], *inputs), argnums=(0, 1)))(x, kernel)
    theirs = jax.grad(lambda *inputs: loss(lambda *a: _direct(name, *a), *inputs), argnums=(0, 1))(x, kernel)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4 * np.abs(other).max())
    alone = jax.jit(jax.grad(lambda x: loss(FUNCTIONS[name], x, kernel)))(x)  # the kernel's tangent is no array
    np.testing.assert_allclose(alone, theirs[0], atol=2e-4 * np.abs(theirs[0]).max())
    forward = jax.jit(lambda: jax.jvp(lambda x: FUNCTIONS[name](x, kernel), (x,), (x,)))()
    np.testing.assert_allclose(forward[0], forward[1], atol=2e-5)  # it is linear


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_single_images_are_those_of_the_batch(name):
    x, kernel = _inputs(3, 8, 8, 6, 5)

    def loss(x):
        return jnp.sum(jnp.sin(FUNCTIONS[name](x, kernel)))

    single = jax.jit(jax.vmap(jax.grad(lambda one: loss(one[None]))))(x)
    np.testing.assert_allclose(single, jax.grad(loss)(x), atol=1e-5)


@pytest.mark.slow
def test_outputs_do_not_depend_on_the_batch(monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_PRODUCTS", 0)
    x, kernel = _inputs(4, 32, 32, 48, 48)
    alone = jax.jit(jax.vmap(lambda one: convolution.convolve(one[None], kernel)[0]))(x)
    np.testing.assert_allclose(alone, jax.jit(convolution.convolve)(x, kernel), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_half_precision_is_rounded_at_the_end(size):
    x, kernel = (value.astype(jnp.bfloat16) for value in _inputs(*size))
    out = jax.jit(convolution.convolve)(x, kernel)
    assert out.dtype == jnp.bfloat16
    exact = _direct("convolve", *(value.astype(jnp.float32) for value in (x, kernel)))
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-8, atol=2e-5)


def test_the_layer_has_the_parameters_of_flax(random_params):
    x, _ = _inputs(2, 8, 8, 12, 1)
    layer = Conv3x3(5)
    params = random_params(layer, x)
    assert jax.tree.map(jnp.shape, params) == {"params": {"kernel": (3, 3, 12, 5), "bias": (5,)}}
    expected = _direct("convolve", x, params["params"]["kernel"]) + params["params"]["bias"][None, None, None]
    np.testing.assert_allclose(layer.apply(params, x), expected, atol=2e-5)
    assert not np.any(Conv3x3(5, zero_init=True).init(jax.random.key(0), x)["params"]["kernel"])


def test_upsampling_repeats_pixels():
    x = np.arange(24.0, dtype=np.float32).reshape(1, 3, 4, 2)
    np.testing.assert_array_equal(convolution.upsample_nearest(jnp.asarray(x)), x.repeat(2, axis=1).repeat(2, axis=2))
