from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.core.svg import MAX_BYTES, MAX_DEPTH, checked
from rdm_jax.data.sources import open_source

SPACE = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
RECT = '<rect x="4" y="4" width="8" height="8"/>'


def document(body: str = RECT, root: str = 'viewBox="0 0 16 16"') -> bytes:
    return f"<svg {SPACE} {root}>{body}</svg>".encode()


def png(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def square(side: int, start: int, stop: int, color: int | tuple[int, int, int]) -> np.ndarray:
    expected = np.full((side, side, 3), 255, np.uint8)
    expected[start:stop, start:stop] = color
    return expected


@pytest.mark.parametrize("side", [16, 64, 256])
def test_a_square_is_rendered_where_it_lies(side: int):
    np.testing.assert_array_equal(
        images.render_svg(document('<rect x="4" y="4" width="8" height="8" fill="red"/>'), side),
        square(side, side // 4, 3 * side // 4, (255, 0, 0)),
    )


def test_a_rendering_without_margin_gets_one():
    np.testing.assert_array_equal(
        images.render_svg(document('<rect width="16" height="16"/>'), 64), square(64, 2, 62, 0)
    )


def test_a_wide_rendering_is_centered():
    rendered = images.render_svg(document('<rect x="2" y="1" width="28" height="6"/>', 'viewBox="0 0 32 8"'), 64)
    assert np.argwhere(rendered[..., 0] == 0).min(0).tolist() == [26, 4]
    assert np.argwhere(rendered[..., 0] == 0).max(0).tolist() == [37, 59]


@pytest.mark.parametrize(
    ("root", "ink"),
    [("", 0x11), ('color="#333"', 0x33), ('style="color:#333"', 0x33)],
)
def test_the_color_of_the_page_is_the_ink(root: str, ink: int):
    body = '<rect x="4" y="4" width="8" height="8" fill="currentColor"/>'
    rendered = images.render_svg(document(body, f'viewBox="0 0 16 16" {root}'), 16)
    np.testing.assert_array_equal(rendered, square(16, 4, 12, ink))


def test_a_prefix_a_declaration_and_a_comment_are_read():
    head = '\ufeff<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE svg PUBLIC "a" "b">\n<!-- é <svg> -->'
    body = '<s:rect x="4" y="4" width="8" height="8" fill="currentColor"/>'
    data = f'{head}<s:svg xmlns:s="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{body}</s:svg>'.encode()
    np.testing.assert_array_equal(
        images.decode(data), square(images.SVG_SIDE, images.SVG_SIDE // 4, 3 * images.SVG_SIDE // 4, 0x11)
    )


@pytest.mark.parametrize(
    "root",
    [
        'width="16" height="16"',
        'width="100%" height="100%" viewBox="0 0 16 16"',
        'width="2000000" height="2000000" viewBox="0 0 16 16"',
    ],
)
def test_the_size_that_a_document_names_is_not_the_images(root: str):
    np.testing.assert_array_equal(images.render_svg(document(root=root), 64), square(64, 16, 48, 0))


def test_a_document_without_any_size_is_rendered():
    assert images.render_svg(document(root=""), 64).min() == 0


def test_references_inside_and_embedded_images_are_rendered():
    body = f'<g id="a">{RECT}</g><use href="#a" x="-4"/><a href="https://link.test"><use xlink:href="#a" y="-4"/></a>'
    rendered = images.render_svg(document(body), 16)
    assert (rendered[..., 0] == 0).sum() == 64 + 32 + 32
    rendered = images.render_svg(document(f'<image href="{png(8, 8)}" x="4" y="4" width="8" height="8"/>'), 16)
    np.testing.assert_array_equal(rendered, square(16, 4, 12, 0))


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../secret.png", "file:///secret.png", "https://host.test/a.png", "data:image/svg+xml;base64,AAAA"],
)
@pytest.mark.parametrize("attribute", ["href", "xlink:href"])
def test_a_reference_to_something_outside_is_rejected(target: str, attribute: str):
    with pytest.raises(ValueError, match="only its own elements and embedded images"):
        images.render_svg(document(f'{RECT}<image {attribute}="{target}" width="8" height="8"/>'))


def test_an_embedded_image_of_too_many_pixels_is_rejected():
    with pytest.raises(ValueError, match="pixels"):
        images.render_svg(document(f'<image href="{png(12_000, 9_000)}" width="8" height="8"/>'))


def _doubling(levels: int) -> str:
    """Returns groups, each of which refers ten times to the one before."""
    uses = [f'<use href="#g{n}"/>' * 10 for n in range(levels)]
    groups = "".join(f'<g id="g{n + 1}">{ten}</g>' for n, ten in enumerate(uses))
    return f'<g id="g0">{RECT}</g>{groups}'


FILTER = '<filter id="f"><feFlood/></filter>'

BOMBS = {
    "nested references": (_doubling(9), "too many elements"),
    "a chain of references": ("".join(f'<g id="g{n}"><use href="#g{n + 1}"/></g>' for n in range(5000)), "deep"),
    "itself": ('<g id="a"><use href="#a"/></g>', "refers to itself"),
    "itself by a mask": ('<mask id="m"><rect mask="url( #m )" width="9" height="9"/></mask>', "refers to itself"),
    "itself by a class": (
        '<style>.c, path.d {clip-path:url("#m")}</style><clipPath id="m"><rect class="x d"/></clipPath>',
        "refers to itself",
    ),
    "nesting": ("<g>" * 100_000 + "</g>" * 100_000, "deep"),
    "filters": (FILTER + '<g filter="url(#f)"/>' * 400, "too many"),
    "filters by a class": ("<style>.c{filter:url(#f)}</style>" + FILTER + '<g class="c"/>' * 400, "too many"),
    "filters of everything": ("<style>*{filter:url(#f)}</style>" + FILTER, "has references"),
    "dashes": ('<path d="M0 0H9" stroke="red" stroke-dasharray="0.00001"/>' * 100, "too many elements"),
    "dashes of everything": (f"<style>rect{{stroke-dasharray:0.00001}}</style>{RECT * 100}", "too many elements"),
    "layers": ('<g opacity="0.5"/>' * 5000, "too many elements"),
    "octaves": ('<filter id="f"><feTurbulence numOctaves="1000000"/></filter>', "feTurbulence"),
    "a dilation": ('<filter id="f"><feMorphology radius="10000"/></filter>', "feMorphology"),
    "a pattern": ('<pattern id="p" width="1000000" height="1000000"/>', "pattern"),
    "bytes": ("<!--" + "x" * MAX_BYTES + "-->", "bytes"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_rejected_before_it_is_rendered(name: str):
    body, reason = BOMBS[name]
    with pytest.raises(ValueError, match=reason):
        checked(document(RECT + body), images.pixel_count)


def test_entities_are_rejected():
    lol = '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    with pytest.raises(ValueError, match="entities"):
        checked(f"<!DOCTYPE svg [{lol}]>".encode() + document("<text>&b;</text>"), images.pixel_count)


def test_what_is_deep_but_allowed_is_rendered():
    levels = MAX_DEPTH - 2
    body = "<g>" * levels + RECT + "</g>" * levels
    np.testing.assert_array_equal(images.render_svg(document(body), 16), square(16, 4, 12, 0))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (document(""), "of which nothing is visible"),
        (document('<rect width="9" height="9" fill="white"/>'), "of which nothing is visible"),
        (b"<svg", "not a readable SVG"),
        (b"<html><body/></html>", "its root is <html>"),
        (document("<g>")[:-6], "not a readable SVG"),
        (b"<svg \xff\xfe/>", "UTF-8"),
    ],
)
def test_a_damaged_or_empty_document_is_a_value_error(data: bytes, reason: str):
    with pytest.raises(ValueError, match=reason):
        images.decode(data)


def test_a_bad_file_is_an_error_of_one_line(tmp_path: Path):
    file = tmp_path / "bad.svg"
    file.write_bytes(document('<image href="/etc/passwd"/>'))
    with pytest.raises(
        UserError, match=r"cannot read .*bad\.svg as an image: an SVG file that refers to '/etc/passwd'"
    ):
        images.read_image(file)


def test_a_folder_of_svg_files_is_a_folder_of_images(tmp_path: Path):
    for name in ("red circle", "blue.star"):
        (tmp_path / f"{name}.SVG").write_bytes(document())
    (tmp_path / "bad.svg").write_bytes(document('<image href="x.png"/>'))
    source = open_source(str(tmp_path))
    assert len(source) == 3
    read = {source.labels(index)["path"]: index for index in range(len(source))}
    assert source[read["blue.star.SVG"]].image.shape == (images.SVG_SIDE, images.SVG_SIDE, 3)
    with pytest.raises(ValueError, match=r"bad\.svg.*refers to"):
        source[read["bad.svg"]]
