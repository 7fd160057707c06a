"""The objects and labels of the procedural set's images."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_jax.data.style_scenes.annotations import LABELS, OBJECTS, annotation
from rdm_jax.data.style_scenes.builder import example


@pytest.mark.parametrize("split", ["train", "test"])
def test_annotations_are_of_the_example(split):
    for index in range(24):
        made, found = example(split, index), annotation(split, index)
        shown = {LABELS[number] for number in np.unique(found.labels)}
        assert made["subject"] in shown and shown <= {"ground", "floor", made["subject"]}
        assert OBJECTS[found.boxes[0][0]] == made["subject"]
        assert ("floor" in shown) <= (len(found.boxes) == 2)


@pytest.mark.parametrize("index", range(0, 40, 8))
def test_a_box_is_that_of_the_labels(index):
    """A subject that a floor hides in part may reach beyond its labels, by no more than the floor."""
    found = annotation("test", index)
    number, (left, top, width, height) = found.boxes[0]
    rows, columns = np.nonzero(found.labels == LABELS.index(OBJECTS[number]))
    expected = np.array([columns.min(), rows.min(), columns.max() + 1]) / 64
    np.testing.assert_allclose([left, top, left + width], expected, atol=2.5 / 64)
    assert top + height >= (rows.max() + 1) / 64 - 2.5 / 64


def test_a_plain_style_shows_the_labels():
    """Within the labels of subject and ground, the colors of a flat style differ."""
    index = next(index for index in range(200) if example("test", index)["style"] == "poster")
    image, found = example("test", index)["image"].astype(float), annotation("test", index)
    subject = found.labels == LABELS.index(example("test", index)["subject"])
    ground = found.labels == LABELS.index("ground")
    assert np.abs(image[subject].mean(axis=0) - image[ground].mean(axis=0)).max() > 20
