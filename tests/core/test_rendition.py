"""How a generated image is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.palette import FLAT, SOFT, Palette, palette_of
from rdm_jax.core.rendition import Rendition
from tests.helpers.shapes import BLACK, RED, WHITE, disk, iou, painted

pytest.importorskip("vtracer")

RING = disk(inner=14)
IMAGE = painted((RING, RED))
PALETTE = palette_of(IMAGE[None])


def test_an_image_is_written_as_it_was_generated():
    written, svg = Rendition().apply(IMAGE)
    assert written is IMAGE and svg is None


def test_an_svg_is_beside_the_image_that_was_generated():
    written, svg = Rendition(svg=True, palette=PALETTE).apply(IMAGE)
    assert written is IMAGE
    assert svg is not None and "currentColor" in svg


@pytest.mark.parametrize("size", [24, 64, 256])
def test_an_image_of_another_size_is_rendered_from_its_svg(size):
    exact = disk(size, (size / 2, size / 2), 20 * size / 64, 14 * size / 64)
    opaque, svg = Rendition(size=size, palette=PALETTE).apply(IMAGE)
    assert opaque.shape == (size, size, 3) and svg is None
    clear, _ = Rendition(size=size, transparent=True, palette=PALETTE).apply(IMAGE)
    assert clear.shape == (size, size, 4)
    assert iou(clear[..., 3] / 255, exact) > 0.9
    assert iou(PALETTE.opacity(opaque).clip(0, 1), exact) > 0.9


def test_transparency_alone_traces_nothing():
    written, _ = Rendition(transparent=True, palette=PALETTE).apply(IMAGE)
    assert iou(written[..., 3] / 255, RING) > 0.99


def test_without_a_palette_the_colors_are_those_of_the_image():
    written, _ = Rendition(transparent=True).apply(IMAGE)
    assert np.array_equal(written, Rendition(transparent=True, palette=PALETTE).apply(IMAGE)[0])


@pytest.mark.parametrize(
    "rendition",
    [Rendition(), Rendition(True, True, 48, PALETTE), Rendition(palette=Palette(FLAT, WHITE, (RED, BLACK)))],
)
def test_a_rendition_survives_its_record(rendition):
    assert Rendition.from_json(json.loads(json.dumps(rendition.to_json()))) == rendition


def test_soft_colors_are_not_made_transparent():
    soft = Palette(SOFT, WHITE, (RED,))
    with pytest.raises(UserError, match="the images of clouds have soft colors"):
        Rendition(transparent=True, palette=soft).check("clouds")
    assert Rendition(svg=True, palette=soft).check("clouds").svg
