"""The channels of content: closed forms of simple shapes, and scipy's morphology."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from rdm_jax.conditioning.structure import ink, silhouette, structure, varied

SIDE = 32


def ring(outer=11, inner=8):
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = np.hypot(x, y)
    return ((radius < outer) & (radius > inner)).astype(np.float32)


@pytest.mark.parametrize(("ground", "color"), [((255, 255, 255), (17, 17, 17)), ((20, 30, 60), (250, 200, 0))])
def test_ink_does_not_depend_on_the_colors(ground, color):
    shape = ring()[..., None]
    image = shape * np.array(color) + (1 - shape) * np.array(ground)
    found = ink(jnp.asarray(image[None] / 127.5 - 1.0, jnp.float32))
    np.testing.assert_allclose(found[0], ring(), atol=1e-5)


def test_ink_of_a_tone_is_in_proportion_to_its_contrast():
    image = np.full((SIDE, SIDE, 3), 1.0, np.float32)
    image[4:12, 4:12], image[20:28, 4:28] = -1.0, 0.5
    found = np.asarray(ink(jnp.asarray(image[None]))[0])
    assert (found[4:12, 4:12] == 1.0).all() and np.allclose(found[20:28, 4:28], 0.25)


def test_a_blank_image_has_no_ink():
    assert (np.asarray(ink(jnp.full((1, SIDE, SIDE, 3), 0.3))) == 0).all()


def test_structure_keeps_every_pixel_in_its_block():
    shapes = np.random.default_rng(0).random((2, 8, 12)).astype(np.float32)
    channels = np.asarray(structure(jnp.asarray(shapes), 4))
    assert channels.shape == (2, 2, 3, 17) and (channels[..., -1] == 1).all()
    for row, column in [(0, 0), (3, 7), (7, 11), (5, 2)]:
        place = (row % 4) * 4 + column % 4
        np.testing.assert_allclose(channels[:, row // 4, column // 4, place], 2 * shapes[:, row, column] - 1, rtol=1e-5)


def test_latents_of_the_ink_black_on_white_are_further_channels():
    shapes = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    found = np.asarray(structure(jnp.asarray(shapes), 4, lambda images: images[:, ::4, ::4]))
    np.testing.assert_array_equal(found[..., :17], structure(jnp.asarray(shapes), 4))
    for channel in (17, 18, 19):
        np.testing.assert_allclose(found[..., channel], 1 - 2 * shapes[:, ::4, ::4], rtol=1e-5)


def test_a_silhouette_is_what_scipy_fills():
    generator = np.random.default_rng(1)
    blobs = scipy.ndimage.gaussian_filter(generator.normal(size=(4, SIDE, SIDE)), (0, 2, 2)) > 0.08
    outlines = np.stack([blob ^ scipy.ndimage.binary_erosion(blob) for blob in blobs] + [ring() > 0])
    found = np.asarray(silhouette(jnp.asarray(outlines, jnp.float32)))
    for shape, filled in zip(outlines, found, strict=True):
        # The flood spreads to diagonal neighbors too.
        assert np.array_equal(filled > 0.5, scipy.ndimage.binary_fill_holes(shape, np.ones((3, 3))))


@pytest.mark.slow
def test_varied_ink_keeps_the_place_and_depends_on_the_key():
    shapes = jnp.asarray(np.stack([ring()] * 64))
    strong = jnp.arange(64) < 32
    one, same, other = (np.asarray(varied(jax.random.key(key), shapes, strong)) for key in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert one.min() >= 0 and one.max() <= 1 + 1e-5
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    centers = np.array([[(y * shape).sum(), (x * shape).sum()] / max(shape.sum(), 1e-6) for shape in one])
    assert np.median(np.hypot(*centers.T)) < 4  # pixels: warped, not moved away
    # The image itself is changed more than another one.
    overlap = [np.minimum(shape, ring()).sum() / np.maximum(shape, ring()).sum() for shape in one]
    assert np.mean(overlap[:32]) < np.mean(overlap[32:])
