import numpy as np
import pytest

from rdm_jax.core import sheets
from rdm_jax.core.fonts import Font

LONG = "a very long description of a thing that nobody could ever fit under one small image, " * 3 + "x" * 300


def random_images(rows, columns, size=24, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (rows, columns, size, size, 3), dtype=np.uint8)


def corners(sheet, image):
    """Returns every place where an image lies on a sheet, pixel for pixel."""
    height, width = image.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (height, width))
    found = np.argwhere((windows == image[..., 0]).all(axis=(2, 3)))
    return [(y, x) for y, x in found if np.array_equal(sheet[y : y + height, x : x + width], image)]


def ink(sheet):
    return (sheet != np.array(sheets.BACKGROUND, np.uint8)).any(axis=-1)


@pytest.mark.parametrize("labels", [False, True])
def test_every_image_is_complete_in_its_row_and_column(labels):
    images = random_images(2, 3)
    given = {
        "row_labels": ["one", LONG],
        "column_labels": ["a", "b", LONG],
        "cell_labels": [[LONG] * 3, ["", "x", "y"]],
        "title": LONG,
    }
    sheet = sheets.grid(images, **(given if labels else {}), zoom=2)
    places = np.zeros((2, 3, 2), int)
    for row, column in np.ndindex(2, 3):
        zoomed = images[row, column].repeat(2, axis=0).repeat(2, axis=1)
        found = corners(sheet, zoomed)
        assert len(found) == 1
        places[row, column] = found[0]
    assert (places[:, :, 0] == places[:, :1, 0]).all() and (np.diff(places[:, 0, 0]) >= 48).all()
    assert (places[:, :, 1] == places[:1, :, 1]).all() and (np.diff(places[0, :, 1]) > 48).all()


def test_labels_stay_out_of_the_gaps_between_columns_and_off_the_edges():
    images = random_images(1, 3, size=40)
    plain = sheets.grid(images, zoom=2)
    sheet = sheets.grid(images, column_labels=[LONG] * 3, cell_labels=[[LONG] * 3], zoom=2)
    between = ~ink(plain).any(axis=0)
    assert not ink(sheet)[:, between].any()
    assert ink(sheet).sum() > ink(plain).sum()
    assert not ink(sheet)[:4].any() and not ink(sheet)[-4:].any()


def test_row_labels_keep_to_their_rows():
    images = random_images(3, 1, size=30)
    plain = sheets.grid(images, zoom=2)
    sheet = sheets.grid(images, row_labels=[LONG] * 3, zoom=2)
    assert sheet.shape[0] == plain.shape[0]
    assert not ink(sheet)[~ink(plain).any(axis=1)].any()


def test_a_short_label_is_drawn_whole_and_a_long_one_ends_in_an_ellipsis():
    font = Font(14)
    assert sheets._wrap("red cat", 200, font) == ["red cat"]
    lines = sheets._wrap(LONG, 100, font)
    assert len(lines) == 4 and lines[-1].endswith(sheets.ELLIPSIS)
    assert all(font.width(line) <= 100 for line in lines)
    assert " ".join(lines[:3]) in LONG


def test_in_rows_fills_the_last_row_with_the_ground():
    laid = sheets.in_rows(random_images(1, 5)[0], 3)
    assert laid.shape == (2, 3, 24, 24, 3)
    assert np.array_equal(laid.reshape(6, 24, 24, 3)[:5], random_images(1, 5)[0])
    assert (laid[1, 2] == sheets.BACKGROUND).all()


@pytest.mark.parametrize(
    "labels", [{"row_labels": ["a"]}, {"column_labels": ["a"]}, {"cell_labels": [["a"], ["b"]]}, {"cell_labels": []}]
)
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="labels"):
        sheets.grid(random_images(2, 2), **labels)


def test_a_sheet_without_images_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        sheets.grid(np.zeros((0, 2, 8, 8, 3), np.uint8))


def test_words_are_broken_behind_their_punctuation_where_they_have_some():
    font = Font(12)
    broken = sheets._wrap("dynamic_threshold(bound=4, share='mosaic')", 80, font, max_lines=9)
    assert "".join(broken).replace(" ", "") == "dynamic_threshold(bound=4,share='mosaic')"
    assert all(line[-1] in "_(,=)" for line in broken)
    assert "".join(sheets._wrap("x" * 40, 80, font)) == "x" * 40
