"""The token of colors of the style encoder, by closed forms and NumPy's histogram."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.models.style_encoder import StyleEncoder, color_histograms

BINS, SIZE = 4, 16


def squares(images):
    """Returns the histograms of the images and of their borders, [2, b, 4, 4, 4]."""
    found = np.asarray(color_histograms(jnp.asarray(images, jnp.float32), BINS)) ** 2
    return found.reshape(len(images), 2, BINS, BINS, BINS).swapaxes(0, 1)


def test_colors_at_the_centers_of_bins_are_counted_as_numpy_counts_them():
    generator = np.random.default_rng(0)
    places = generator.integers(0, BINS, (3, SIZE, SIZE, 3))
    whole, border = squares(places / 1.5 - 1.0)
    edge = np.ones((SIZE, SIZE), bool)
    edge[1:-1, 1:-1] = False
    for image, of_all, of_border in zip(places, whole, border, strict=True):
        for pixels, found in ((image.reshape(-1, 3), of_all), (image[edge], of_border)):
            expected, _ = np.histogramdd(pixels, bins=[np.arange(BINS + 1) - 0.5] * 3)
            np.testing.assert_allclose(found, expected / len(pixels), atol=2e-5)


@pytest.mark.parametrize("color", [(-1.0, 0.2, 0.9), (0.5, 0.5, -0.31)])
def test_a_color_between_centers_has_its_place_as_the_mean_over_bins(color):
    whole, _ = squares(np.broadcast_to(color, (1, SIZE, SIZE, 3)))
    for axis, value in enumerate(color):
        along = whole[0].sum(axis=tuple({0, 1, 2} - {axis}))
        assert along.sum() == pytest.approx(1.0, abs=2e-3)
        assert (along * (np.arange(BINS) / 1.5 - 1.0)).sum() == pytest.approx(value, abs=2e-3)


@pytest.mark.slow
def test_gradients_are_finite_where_a_color_is_missing():
    gradient = jax.grad(lambda x: color_histograms(x, BINS).sum())(jnp.full((1, SIZE, SIZE, 3), 0.3))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.slow
def test_the_token_of_colors_is_the_last_one_and_the_only_one_that_adds_to_the_others():
    images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, SIZE, SIZE, 3)), jnp.float32)
    plain = StyleEncoder(SIZE, 8, widths=(8, 8), num_groups=4, vector_dim=8)
    colored = plain.clone(color_bins=BINS)
    params = jax.jit(colored.init)(jax.random.key(0), images)["params"]
    tokens, vectors = jax.jit(colored.apply)({"params": params}, images)
    shared = {name: value for name, value in params.items() if name not in ("histogram", "colors")}
    expected, same = jax.jit(plain.apply)({"params": shared}, images)
    assert tokens.shape[1] == colored.tokens == plain.tokens + 1
    np.testing.assert_allclose(tokens[:, :-1], expected, atol=1e-5)
    np.testing.assert_allclose(vectors, same, atol=1e-6)
    # Where the colors stay, their place in the image does not matter to it.
    turned, _ = jax.jit(colored.apply)({"params": params}, images[:, ::-1])
    np.testing.assert_allclose(turned[:, -1], tokens[:, -1], atol=1e-5)
    assert np.abs(np.asarray(turned[:, :-1] - tokens[:, :-1])).max() > 1e-3
