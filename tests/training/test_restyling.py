"""Random styles of one-color drawings: their shapes and colors by closed forms, their sets by invariants."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from rdm_jax.core.errors import UserError
from rdm_jax.data.image_set import ImageSet
from rdm_jax.training.config import load_config
from rdm_jax.training.restyling import shapes, with_restyled
from rdm_jax.training.restyling.painting import painted
from rdm_jax.training.restyling.style import Badge, Fill, Form, Ink, hsv, sample_style

SIZE = 32


def drawings(count=6):
    """Frames and bars, black on white, as opacities."""
    found = np.zeros((count, SIZE, SIZE), np.float32)
    for i in range(count):
        found[i, 4 + i : 20, 6:24] = 1.0
        found[i, 7 + i : 17, 9:21] = 0.0
        found[i, 24:27, 4 : 20 + i] = 1.0
    return found


def plain(**changes):
    """A style that changes nothing, but for the given fields."""
    style = sample_style(jax.random.key(0))
    fields = {"form": Form.AS_IS, "fill": Fill.NONE, "ink": Ink.PLAIN, "badge": Badge.NONE, "pixels": 0}
    numbers = dict.fromkeys(("weight", "sway", "gap"), 0.0)
    colors = {"ground": jnp.ones(3), "inks": jnp.tile(jnp.array([[-1.0, 0.0, 0.5]]), (5, 1))}
    return style.replace(**fields | numbers | colors | changes)


def paint(style):
    return np.asarray(jax.jit(painted)(jax.random.key(1), jax.tree.map(jnp.asarray, style), jnp.asarray(drawings())))


@pytest.mark.parametrize("amount", [1.0, 2.0, -1.0])
def test_growing_by_whole_pixels_is_gray_dilation_and_shrinking_is_erosion(amount):
    generator = np.random.default_rng(0)
    values = generator.random((3, SIZE, SIZE)).astype(np.float32)
    cross, square = scipy.ndimage.generate_binary_structure(2, 1), np.ones((3, 3), bool)
    change = scipy.ndimage.maximum_filter if amount > 0 else scipy.ndimage.minimum_filter
    for one, found in zip(values, np.asarray(shapes.grown(jnp.asarray(values), jnp.asarray(amount))), strict=True):
        expected = one
        for footprint in (cross, square)[: int(abs(amount))]:
            expected = change(expected, footprint=footprint, mode="nearest")
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_half_a_pixel_is_half_way():
    values = jnp.asarray(drawings())
    half, whole = (np.asarray(shapes.grown(values, jnp.asarray(amount))) for amount in (0.5, 1.0))
    np.testing.assert_allclose(half, (np.asarray(values) + whole) / 2, atol=1e-6)


def test_areas_are_numbered_as_scipy_labels_them():
    generator = np.random.default_rng(2)
    areas = generator.random((4, SIZE, SIZE)) < 0.45
    for one, found in zip(areas, np.asarray(shapes.numbered(jnp.asarray(areas))), strict=True):
        expected, count = scipy.ndimage.label(one)
        assert np.array_equal(found > 0, one)
        assert len(np.unique(found[one])) == count == len({*zip(found[one], expected[one], strict=True)})


def test_the_largest_area_has_the_first_color_and_each_area_one():
    areas = np.zeros((1, SIZE, SIZE), bool)
    areas[0, 2:5, 2:5], areas[0, 10:20, 10:20] = True, True
    palette = jnp.arange(12.0).reshape(4, 3)
    numbers = shapes.numbered(jnp.asarray(areas))
    found = {
        tuple(np.asarray(shapes.colors_of(jax.random.key(i), numbers, palette))[0, 3, 3].tolist()) for i in range(30)
    }
    colors = np.asarray(shapes.colors_of(jax.random.key(0), numbers, palette))[0]
    assert np.array_equal(colors[10:20, 10:20], np.broadcast_to(palette[0], (10, 10, 3)))
    assert len(np.unique(colors[2:5, 2:5].reshape(-1, 3), axis=0)) == 1 and len(found) == 4


def test_pixels_are_full_or_empty_cells_of_the_grid():
    found = np.asarray(shapes.pixelated(jnp.asarray(drawings()), jnp.asarray(16)))
    cells = found.reshape(-1, 16, 2, 16, 2)
    assert np.array_equal(cells, np.broadcast_to(cells[:, :, :1, :, :1], cells.shape)) and {0.0, 1.0} == {
        *found.ravel()
    }
    means = drawings().reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4))
    assert np.array_equal(cells[:, :, 0, :, 0], means > 0.4)
    assert np.array_equal(shapes.pixelated(jnp.asarray(drawings()), jnp.asarray(0)), drawings())
    # Cells of a broken number of pixels share those at their edges; the whole stays the whole.
    full = np.asarray(shapes.pixelated(jnp.ones((1, SIZE, SIZE)), jnp.asarray(14)))
    np.testing.assert_allclose(full, 1.0, atol=1e-5)


def test_gaps_leave_out_about_their_share():
    ink = jnp.ones((200, SIZE, SIZE))
    for share in (0.0, 0.15, 0.3):
        left = float(shapes.gapped(jax.random.key(0), ink, jnp.asarray(share)).mean())
        assert abs(1.0 - share - left) < 0.04, (share, left)


def test_nothing_strays_by_no_pixels_and_smaller_drawings_have_a_margin():
    values = jnp.asarray(drawings())
    np.testing.assert_allclose(shapes.strayed(jax.random.key(0), values, jnp.asarray(0.0)), values, atol=1e-5)
    small = np.asarray(shapes.scaled(jnp.ones((1, SIZE, SIZE)), jnp.asarray(0.5)))[0]
    assert small[:6].max() < 1e-3 and small[10:22, 10:22].min() > 0.99
    assert abs(small.sum() - SIZE**2 / 4) < SIZE
    np.testing.assert_allclose(shapes.scaled(values, jnp.asarray(1.0)), values, atol=1e-5)


def test_what_is_shifted_out_of_the_image_is_lost():
    values = jnp.asarray(np.random.default_rng(0).random((2, SIZE, SIZE)), jnp.float32)
    found = shapes.shifted(values, jnp.array([2.2, -3.0]))
    expected = np.zeros_like(values)
    expected[:, 2:, :-3] = values[:, :-2, 3:]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_hsv_is_the_color_of_python():
    import colorsys

    generator = np.random.default_rng(0)
    for color in generator.random((50, 3)):
        expected = 2 * np.array(colorsys.hsv_to_rgb(*color)) - 1
        np.testing.assert_allclose(hsv(jnp.asarray(color)), expected, atol=1e-5)


@pytest.mark.slow
def test_a_plain_style_mixes_ground_and_ink_by_opacity():
    found = paint(plain())
    expected = 1.0 + drawings()[..., None] * (np.array([-1.0, 0.0, 0.5]) - 1.0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_forms_are_made_of_the_ink():
    ink, inside = drawings(), np.zeros((6, SIZE, SIZE), bool)
    for i in range(6):
        inside[i, 7 + i : 17, 9:21] = True
    opacity = {
        form: (1.0 - paint(plain(form=form, line=2.0))[..., 0]) / 2.0
        for form in (Form.SOLID, Form.CUT_OUT, Form.OUTLINE)
    }
    assert opacity[Form.SOLID][inside].min() > 0.99 and np.array_equal(opacity[Form.SOLID] > 0.5, (ink > 0.5) | inside)
    assert opacity[Form.CUT_OUT][inside].min() > 0.99 and opacity[Form.CUT_OUT][ink > 0.5].max() < 0.01
    expected = ink - np.stack(
        [scipy.ndimage.minimum_filter(one, footprint=np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])) for one in ink]
    )
    np.testing.assert_allclose(opacity[Form.OUTLINE], expected, atol=1e-5)


def test_fills_lie_under_the_ink_and_within_the_silhouette():
    ink = drawings()
    palette = jnp.linspace(-0.9, 0.6, 15).reshape(5, 3)
    lines = paint(plain())
    for fill in (Fill.TINT, Fill.AREAS, Fill.SHADED, Fill.GRADIENT, Fill.HATCHED):
        found = paint(plain(fill=fill, palette=palette))
        assert np.allclose(found[ink > 0.5], lines[ink > 0.5], atol=1e-5)
        changed = np.abs(found - lines).max(axis=-1) > 1e-3
        whole = np.stack([scipy.ndimage.binary_fill_holes(one > 0.5) for one in ink])
        assert changed.any() and not (changed & ~whole).any()
    tint = paint(plain(fill=Fill.TINT, palette=palette))
    np.testing.assert_allclose(tint[0, 10, 12], palette[0], atol=1e-5)


def test_a_badge_is_behind_and_the_drawing_smaller():
    palette = jnp.tile(jnp.array([[0.2, -0.4, 0.6]]), (5, 1))
    found = paint(plain(badge=Badge.DISK, palette=palette))
    np.testing.assert_allclose(found[0, 0, 0], 1.0, atol=1e-5)
    np.testing.assert_allclose(found[0, 2, SIZE // 2], palette[-1], atol=1e-5)
    ink = (np.abs(found - np.array([-1.0, 0.0, 0.5])).max(axis=-1) < 0.05).sum()
    assert 0.2 < ink / (drawings() > 0.5).sum() < 0.7


@pytest.mark.slow
def test_styles_cover_every_kind_and_stay_in_range():
    styles = jax.jit(jax.vmap(sample_style))(jax.random.split(jax.random.key(0), 500))
    for name, kinds in (("form", Form), ("fill", Fill), ("ink", Ink), ("badge", Badge)):
        assert {*np.asarray(getattr(styles, name)).tolist()} == {int(kind) for kind in kinds}
    for name in ("ground", "palette", "inks"):
        values = np.asarray(getattr(styles, name))
        assert values.min() >= -1.001 and values.max() <= 1.001
    images = jax.jit(jax.vmap(lambda key, style: painted(key, style, jnp.asarray(drawings(2)))))(
        jax.random.split(jax.random.key(1), 40), jax.tree.map(lambda x: x[:40], styles)
    )
    assert np.isfinite(images).all() and np.abs(images).max() < 1.01
    # Images of a style are alike in color; styles differ.
    flat = np.asarray(images).mean(axis=(2, 3))
    assert np.abs(flat[:, 0] - flat[:, 1]).mean() < 0.5 * np.abs(flat[:-1, 0] - flat[1:, 0]).mean()


def data(tmp_path, *settings):
    given = (f"data.data_dir={tmp_path}", f"data.size={SIZE}", "data.restyled=3", "data.restyled_images=4")
    return load_config("icons/rdm", [*given, *settings]).data


def image_set(one_color="True"):
    pixels = np.repeat(255 - (drawings(12) * 240).astype(np.uint8)[..., None], 3, axis=-1)
    labels = [{"style": f"s{i % 2}", "group": "g", "one_color": one_color if i % 2 else "False"} for i in range(12)]
    return ImageSet(pixels, [f"word {i}" for i in range(12)], labels, np.arange(12), "1" * 64)


@pytest.mark.slow
def test_a_set_has_further_styles_with_the_captions_of_their_images(tmp_path):
    images = image_set()
    found = with_restyled(images, data(tmp_path), lambda *_: None)
    assert len(found) == 12 + 3 * 4 and np.array_equal(found.images[:12], images.images)
    assert len({label["style"] for label in found.attributes}) == 5 and found.fingerprint != images.fingerprint
    for caption, label, row in zip(found.captions[12:], found.attributes[12:], found.rows[12:], strict=True):
        assert caption == f"word {row}" and row % 2 == 1, "made of the style of one color"
        assert label["group"] == "g" and label["one_color"] == "False"
    again = with_restyled(images, data(tmp_path), lambda *_: pytest.fail("they are in the cache"))
    assert np.array_equal(again.images, found.images)
    assert with_restyled(images, data(tmp_path, "data.restyled=0"), lambda *_: None) is images


def test_random_styles_need_images_of_one_color(tmp_path):
    with pytest.raises(UserError, match=r"data.restyled=3 makes styles of images of one color, and the set has none"):
        with_restyled(image_set("False"), data(tmp_path), lambda *_: None)
