"""CLIP guidance on the denoised estimate: the spherical distance, cutouts, smoothness, and their sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.keys import image_keys, normal
from rdm_jax.guidance.clip import clip_distance, cut, spherical_distance, total_variation
from tests.helpers.mixture import info_at

KEYS = image_keys(0, jnp.arange(3))
X0 = normal(image_keys(1, jnp.arange(3)), (8, 8, 3))


def encode(images):
    return jnp.stack([images.mean(axis=(1, 2, 3)), images[:, :2].mean(axis=(1, 2, 3)), images[..., 0].mean((1, 2))], 1)


def test_the_distance_is_half_the_squared_angle():
    angles = np.linspace(0.01, 3.1, 20)
    vectors = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1) * 3.0, jnp.float32)
    np.testing.assert_allclose(spherical_distance(vectors, jnp.array([[2.0, 0.0]])), angles**2 / 2, rtol=2e-3)
    slope = jax.grad(lambda v: spherical_distance(v, jnp.array([[2.0, 0.0]])).sum())(jnp.array([[5.0, 0.0]]))
    assert np.isfinite(slope).all()


def test_squares_are_parts_of_the_image():
    ramp = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 32)[None, :, None], (32, 32, 3))
    squares = np.asarray(cut(KEYS[0], ramp, 16, 40))
    assert squares.shape == (40, 16, 16, 3) and squares.min() >= -1e-5 and squares.max() <= 1 + 1e-5
    spans = squares[:, 8, -2, 0] - squares[:, 8, 1, 0]
    assert spans.min() > 0.15 and spans.max() < 1.0 and spans.std() > 0.05
    np.testing.assert_allclose(cut(KEYS[1], jnp.full((20, 24, 3), 0.7), 8, 5), 0.7, atol=1e-5)


def test_smoothness_is_the_mean_squared_difference_of_neighbors():
    image = np.asarray(X0[:1], np.float64)
    expected = (np.diff(image, axis=1) ** 2).mean() + (np.diff(image, axis=2) ** 2).mean()
    np.testing.assert_allclose(total_variation(X0[:1]), expected, rtol=1e-5)


def test_the_objective_decreases_with_the_distance_and_weights_targets():
    info, target = info_at(300, KEYS), encode(X0)[:, None]
    one = clip_distance(lambda x: x, encode, target, jnp.ones((3, 1)), 10.0, size=8, cutouts=4)
    measure = jax.jit(lambda x: one.measure(x, info))
    slope = jax.jit(jax.grad(lambda x: measure(x).sum()))(X0 + 1.0)
    assert (measure(X0 + 1.0 + 0.01 * slope) > measure(X0 + 1.0)).all()
    away = clip_distance(lambda x: x, encode, target, -jnp.ones((3, 1)), 10.0, size=8, cutouts=4)
    np.testing.assert_allclose(jax.jit(lambda x: away.measure(x, info))(X0), -measure(X0), rtol=1e-5)
    smooth = clip_distance(lambda x: x, encode, target, jnp.zeros((3, 1)), 10.0, size=8, cutouts=4, smoothness=2.0)
    np.testing.assert_allclose(jax.jit(lambda x: smooth.measure(x, info))(X0), -2.0 * total_variation(X0), rtol=1e-5)
    with pytest.raises(ValueError, match="give the plan its keys"):
        one.measure(X0, info_at(300))
