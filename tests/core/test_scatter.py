"""Scatter plots of images."""

import numpy as np

from rdm_jax.core import scatter as module
from rdm_jax.core.scatter import scatter


def flat(colors, size=8):
    return np.stack([np.full((size, size, 3), color, np.uint8) for color in colors])


def centers(sheet, colors):
    """Returns the middle of what has each color, as (x, y)."""
    places = [np.argwhere((sheet == np.array(color, np.uint8)).all(axis=-1)) for color in colors]
    return np.array([place[:, ::-1].mean(axis=0) for place in places])


COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]


def test_images_lie_where_their_points_are():
    points = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 4.0], [10.0, 4.0], [5.0, 2.0]])
    sheet = scatter(points, flat(COLORS), size=(600, 400))
    assert sheet.shape == (400, 600, 3) and sheet.dtype == np.uint8
    found = centers(sheet, COLORS)
    design = np.column_stack([points, np.ones(5)])
    (to_x, to_y), *_ = (np.linalg.lstsq(design, found, rcond=None)[0].T,)
    np.testing.assert_allclose(design @ np.stack([to_x, to_y]).T, found, atol=1)  # one affine map for all
    assert to_x[0] > 0 and abs(to_x[1]) < 1e-6 and to_y[1] < 0 and abs(to_y[0]) < 1e-6  # y goes up


def test_an_image_without_room_is_a_dot():
    points = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    sheet = scatter(points, flat(COLORS[:4]), size=(300, 300))
    seen = [(sheet == np.array(color, np.uint8)).all(axis=-1).any() for color in COLORS[:4]]
    assert seen[0] and sum(seen[1:]) == 1


def test_every_image_is_complete():
    points = np.random.default_rng(0).normal(size=(400, 2))
    sheet = scatter(points, flat([(i % 20 * 12, i // 20 * 12, 9) for i in range(400)]), size=(500, 500))
    blue = sheet[(sheet[..., 2] == 9)]
    colors, counts = np.unique(blue, axis=0, return_counts=True)
    assert len(colors) > 20 and (counts == 40 * 40).all()


def test_the_query_and_its_neighbors_are_marked_and_on_top():
    points = np.concatenate([np.random.default_rng(0).normal(size=(300, 2)), np.zeros((2, 2)), [[4.0, 4.0]]])
    images = flat([(90, 90, 90)] * 300 + COLORS[:3])
    sheet = scatter(points, images, query=np.array([-4.0, 4.0]), neighbors=[300, 302], size=(600, 600))
    for color in (COLORS[0], COLORS[2]):
        assert (sheet == np.array(color, np.uint8)).all(axis=-1).sum() > 50**2
    assert not (sheet == np.array(COLORS[1], np.uint8)).all(axis=-1).any()  # below the first neighbor
    marks = (sheet == np.array(module.MARK, np.uint8)).all(axis=-1)
    assert marks[: 600 // 4, : 600 // 4].sum() > 200 and marks.sum() > 1000
    plain = scatter(points, images, size=(600, 600))
    assert not (plain == np.array(module.MARK, np.uint8)).all(axis=-1).any()


def test_one_place_for_all_a_title_and_no_neighbors_are_valid():
    for title, query, neighbors in (("", None, None), ("a title " * 40, np.zeros(2), None), ("", np.ones(2), [])):
        points, images = np.zeros((3, 2)), flat(COLORS[:3])
        sheet = scatter(points, images, title=title, query=query, neighbors=neighbors, size=(200, 200))
        assert sheet.shape == (200, 200, 3)
    np.testing.assert_array_equal(scatter(np.eye(2), flat(COLORS[:2])), scatter(7 + 1000 * np.eye(2), flat(COLORS[:2])))
