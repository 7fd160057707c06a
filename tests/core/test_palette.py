"""The colors of sets of icons whose colors are known, and their transparency."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.palette import FLAT, ONE_COLOR, SOFT, Palette, alpha_of, palette_of
from tests.helpers.shapes import BLACK, BLUE, RED, WHITE, YELLOW, disk, over, painted, rectangle

RING, SQUARE = disk(inner=15.3), rectangle(10.4, 20.7, 50.2, 30.1)


@pytest.mark.parametrize("color", [BLACK, RED, BLUE])
@pytest.mark.parametrize("background", [WHITE, (20, 24, 40)])
def test_a_set_of_one_color_is_found_with_its_background(color, background):
    images = np.stack([painted((shape, color), background=background) for shape in (RING, SQUARE, disk(outer=9))])
    assert palette_of(images) == Palette(ONE_COLOR, background, (color,))


def test_a_paler_tone_that_fills_areas_is_a_tone_and_an_edge_is_none():
    gray = (204, 204, 204)
    duotone = painted((disk(), gray), (RING, BLACK))
    palette = palette_of(duotone[None])
    assert palette == Palette(ONE_COLOR, WHITE, (BLACK, gray))
    assert palette.opacities == pytest.approx([0.2, 1.0], abs=1e-6)


def test_the_colors_of_a_flat_set_are_its_own_and_mixtures_along_edges_are_none():
    images = np.stack([painted((disk(), BLUE), (SQUARE, YELLOW)), painted((disk(), RED), (disk(outer=12), BLUE))])
    palette = palette_of(images)
    assert palette.kind == FLAT
    assert palette.background == WHITE
    assert set(palette.colors) == {BLUE, RED, YELLOW}


def test_textures_and_gradients_are_soft():
    gradient = np.stack(np.broadcast_arrays(*np.ogrid[0:256:4, 0:256:4], np.full((1, 1), 90)), -1).astype(np.uint8)
    assert palette_of(gradient[None]).kind == SOFT
    assert palette_of(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)).kind == SOFT


@pytest.mark.parametrize("value", [0, 255])
def test_an_empty_icon_has_a_palette_and_is_transparent(value):
    empty = np.full((16, 16, 3), value, np.uint8)
    assert not alpha_of(empty, palette_of(empty[None]))[..., 3].any()


@pytest.mark.parametrize("color", [BLACK, RED, (120, 200, 240)])
def test_the_opacity_of_a_one_color_icon_is_its_coverage(color):
    image = painted((RING, color))
    rgba = alpha_of(image, palette_of(image[None]))
    assert np.abs(rgba[..., 3] / 255 - RING).max() <= 0.031  # what is nearly transparent or opaque is so
    assert (rgba[..., :3] == color).all()
    assert np.abs(over(rgba) - image).max() <= 8


def test_the_edge_of_a_flat_icon_is_its_coverage_in_the_color_that_it_belongs_to():
    body = disk(outer=20)
    image = painted((body, YELLOW), (disk(outer=12), BLUE))
    rgba = alpha_of(image, palette_of(image[None]))
    nearest = 24 / np.linalg.norm(np.subtract(WHITE, YELLOW))  # what is as near to the background is transparent
    assert np.abs(rgba[..., 3] / 255 - body).max() <= nearest + 0.005
    mixed = (body > 0.1) & (body < 0.9)
    assert (rgba[mixed][:, :3] == YELLOW).all()
    assert np.abs(over(rgba) - image).max() <= 24


def test_what_is_enclosed_in_a_flat_icon_stays():
    image = painted((disk(), BLUE), (disk(outer=14), WHITE), (disk(outer=8), RED))
    rgba = alpha_of(image, palette_of(image[None]))
    assert (rgba[32, 20] == (*WHITE, 255)).all()
    assert rgba[0, 0, 3] == 0


def test_soft_images_have_no_transparent_background():
    with pytest.raises(UserError, match="soft colors have no transparent background"):
        alpha_of(np.zeros((8, 8, 3), np.uint8), Palette(SOFT, WHITE, (BLACK,)))


@pytest.mark.parametrize("colors", [(), ((1, 2),), ((0, 0, 256),)])
def test_a_palette_has_colors(colors):
    with pytest.raises(UserError, match="a palette has"):
        Palette(FLAT, WHITE, colors)
