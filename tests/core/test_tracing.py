"""Shapes whose coverage is known, traced to SVG and rendered again."""

from __future__ import annotations

import builtins
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from rdm_jax.core import tracing
from rdm_jax.core.errors import UserError
from rdm_jax.core.palette import FLAT, SOFT, Palette, palette_of
from rdm_jax.core.tracing import render, trace
from tests.helpers.shapes import BLACK, BLUE, RED, WHITE, YELLOW, disk, iou, over, painted, rectangle

pytest.importorskip("vtracer")

SHAPES = {
    "disk": disk(),
    "ring": disk(inner=15),
    "thin ring": disk(inner=17.5),
    "rectangle": rectangle(12, 20, 50, 44),
    "line": rectangle(4.3, 30, 59.8, 34),
    "touching the border": rectangle(0, 0, 30, 64),
    "two disks": np.maximum(disk(center=(18, 20), outer=10), disk(center=(46, 44), outer=10)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", [BLACK, RED])
def test_a_shape_comes_back(shape, color):
    image = painted((SHAPES[shape], color))
    svg = trace(image, palette_of(image[None]))
    assert iou(render(svg, 64)[..., 3] / 255, SHAPES[shape]) >= 0.95
    assert len(svg.encode()) < 4096


def test_a_shape_comes_back_at_a_size_that_it_never_had():
    image = painted((disk(inner=14), BLACK))
    large = disk(256, (128, 128), 80, 56)
    assert iou(render(trace(image, palette_of(image[None])), 256)[..., 3] / 255, large) >= 0.95


def test_an_icon_of_many_lines_is_small():
    lines = np.maximum.reduce([rectangle(4, y, 60, y + 2.4) for y in range(4, 60, 7)] + [disk(inner=17.5)])
    image = painted((lines, BLACK))
    assert len(trace(image, palette_of(image[None])).encode()) < 4096


def test_one_color_is_that_of_the_text_around_and_the_viewbox_is_given():
    image = painted((disk(), RED))
    root = ElementTree.fromstring(trace(image, palette_of(image[None])))
    width, height = map(int, root.attrib["viewBox"].split()[2:])
    assert width == height >= 256
    assert [path.attrib["fill"] for path in root] == ["currentColor"]
    assert (render(trace(image, palette_of(image[None])), 32, "#0a141e")[16, 16] == (10, 20, 30, 255)).all()


def test_the_tones_of_a_duotone_icon_come_back():
    image = painted((disk(), (204, 204, 204)), (disk(inner=15), BLACK))
    svg = trace(image, palette_of(image[None]))
    assert re.findall(r'fill-opacity="([^"]*)"', svg) == ["0.20"]
    rendered = render(svg, 64)
    assert iou(rendered[..., 3] / 255, np.where(disk(inner=15) > 0, disk(inner=15), 0.2 * disk())) >= 0.95
    assert rendered[32, 32, 3] == 51


def test_the_colors_of_a_flat_icon_are_those_of_the_palette_and_edges_add_none():
    layers = (disk(), BLUE), (rectangle(20, 20, 44, 44), YELLOW), (disk(outer=8), RED)
    image = painted(*layers)
    between = (140, 132, 95)  # between blue and yellow, as the edge is
    palette = Palette(FLAT, WHITE, (BLUE, YELLOW, RED, between))
    svg = trace(image, palette)
    assert {tuple(bytes.fromhex(color)) for color in re.findall(r"#(\w{6})", svg)} == {BLUE, YELLOW, RED}
    rendered = render(svg, 64)
    assert rendered[0, 0, 3] == 0
    assert np.sqrt(((over(rendered) - image) ** 2).mean()) < 6
    constant = [(0, 0), (32, 15), (22, 22), (32, 32)]
    assert all(np.abs(over(rendered)[place] - image[place]).max() <= 1 for place in constant)


def test_a_narrow_line_in_a_color_of_its_own_is_kept():
    image = painted((disk(), BLUE), (rectangle(20, 31, 44, 33), YELLOW))
    assert np.abs(over(render(trace(image, palette_of(image[None])), 64))[31, 32] - YELLOW).max() <= 12


def test_a_soft_image_is_opaque_in_colors_of_its_set():
    rng = np.random.default_rng(1)
    colors = rng.integers(0, 256, (5, 3))
    image = np.repeat(np.repeat(colors[rng.integers(0, 5, (4, 4))], 16, 0), 16, 1).astype(np.uint8)
    palette = Palette(SOFT, WHITE, tuple(map(tuple, colors.tolist())))
    svg = trace(image, palette)
    assert {tuple(bytes.fromhex(color)) for color in re.findall(r"#(\w{6})", svg)} <= set(palette.colors)
    rendered = render(svg, 64)
    assert (rendered[2:-2, 2:-2, 3] == 255).all()
    assert np.sqrt(((over(rendered) - image) ** 2).mean()) < 16


def test_an_image_need_not_be_square():
    image = painted((rectangle(10, 10, 54, 22), BLACK))[:32]
    rendered = render(trace(image, palette_of(image[None])), 64)
    assert rendered.shape == (32, 64, 4)
    assert iou(rendered[..., 3] / 255, rectangle(10, 10, 54, 22)[:32]) >= 0.95


def test_an_empty_icon_is_an_empty_svg():
    image = np.full((64, 64, 3), 255, np.uint8)
    svg = trace(image, palette_of(image[None]))
    assert "<path" not in svg
    assert not render(svg, 24).any()


def test_without_the_library_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "vtracer":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"rdm_jax\[svg\]"):
        tracing.require()
