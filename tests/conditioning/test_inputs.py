"""Layouts as tokens against the original program, label maps, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from rdm_jax.conditioning.inputs.layout import (
    OPEN_IMAGES,
    Object,
    Vocabulary,
    class_numbers,
    read_layout,
)
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import fit_labels, read_labels
from tests.helpers.latent_tasks import data_of, golden_generator

FLAGS = ("group_of", "occluded", "depiction", "inside")
RELEASED = Vocabulary(size=8192, length=92, classes=352)


def objects_of(data, scene):
    """Returns the objects of a golden layout."""
    rows = [row for row in data["objects"] if row[0] == scene]
    return [
        Object(int(row[1]), tuple(row[2:6]), tuple(flag for flag, on in zip(FLAGS, row[6:], strict=True) if on))
        for row in rows
    ]


def test_layouts_have_the_tokens_of_the_original(golden):
    data = data_of(golden, "layout2img")
    words = Vocabulary(400, 14, int(data["num_classes"][0]))
    for scene, expected in enumerate(data["tokens"]):
        np.testing.assert_array_equal(words.tokens(objects_of(data, scene), tuple(data["crops"][scene])), expected)


def test_the_released_vocabulary_has_room_for_thirty_objects():
    assert (RELEASED.most_objects, RELEASED.side) == (30, 90)
    tokens = RELEASED.tokens([Object(339, (0.0, 0.0, 1.0, 1.0), FLAGS)])
    assert tokens[:3].tolist() == [339 + 15 * 352, 0, 8099] and tokens[-2:].tolist() == [0, 8099]
    assert (tokens[3:-2] == 8191).all() and len(tokens) == 92


def test_some_classes_count_as_another_one():
    numbers = class_numbers(OPEN_IMAGES)
    assert numbers["woman"] == numbers["person"] and numbers["sofa bed"] == numbers["couch"]
    assert sorted(set(numbers.values())) == list(range(340)) and len(numbers) == 352


def test_a_layout_is_read_by_names_and_numbers(tmp_path):
    file = tmp_path / "layout.json"
    objects = [
        {"class": "CAT", "box": [0.1, 0.2, 0.5, 0.3], "occluded": True},
        {"class": 1, "box": [0, 0, 1, 1], "inside": False},
    ]
    file.write_text(json.dumps({"objects": objects, "crop": [0.5, 0.0, 0.5, 1.0]}))
    read, crop = read_layout(str(file), class_numbers(["cat", "dog"]))
    assert read == [Object(0, (0.1, 0.2, 0.5, 0.3), ("occluded",)), Object(1, (0.0, 0.0, 1.0, 1.0))]
    assert crop == (0.5, 0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is no JSON"),
        ("[1]", 'has no list "objects"'),
        ('{"objects": [], "size": 3}', "unknown key of layout .* 'size'"),
        ('{"objects": [{"class": "cat"}]}', 'object 1 of layout .* has no "class" and "box"'),
        ('{"objects": [{"class": "kat", "box": [0, 0, 1, 1]}]}', "unknown class .* 'kat'; did you mean 'cat'"),
        ('{"objects": [{"class": -1, "box": [0, 0, 1, 1]}]}', "is -1; give a name or a number from 0 on"),
        ('{"objects": [{"class": 0, "box": [0, 0, 1.5, 1]}]}', "give .* as fractions of the image"),
        ('{"objects": [{"class": 0, "box": [0, 0, 1]}]}', "give .left, top, width, height."),
        ('{"objects": [{"class": 0, "box": [0, 0, 1, 1], "occluded": 1}]}', "occluded of object 1 .* write true or"),
        ('{"objects": [{"class": 0, "box": [0, 0, 1, 1], "flag": 1}]}', "unknown key of object 1"),
    ],
)
def test_an_invalid_layout_is_refused(tmp_path, content, message):
    (tmp_path / "layout.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_layout(str(tmp_path / "layout.json"), class_numbers(["cat"]))


def test_a_model_refuses_layouts_beyond_its_vocabulary(golden, tmp_path):
    generator, file = golden_generator(golden, "layout2img", "conditioning.layout_classes=24"), tmp_path / "layout.json"
    box = [0.1, 0.2, 0.5, 0.3]
    for objects, message in (
        ([{"class": 0, "box": box}] * 5, r"has 5 objects, and model 'layout2img_small' takes 4"),
        ([{"class": 24, "box": box}], r"has class 24, and the model has classes 0 to 23"),
    ):
        file.write_text(json.dumps({"objects": objects}))
        with pytest.raises(UserError, match=message):
            generator.plan(layout=str(file))


def test_labels_are_gray_values_or_indices(tmp_path):
    labels = np.random.default_rng(0).integers(0, 5, (4, 6), dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "gray.png")
    indexed = Image.fromarray(labels, mode="P")
    indexed.putpalette([7 * value % 256 for value in range(768)])
    indexed.save(tmp_path / "indexed.png")
    for name in ("gray.png", "indexed.png"):
        np.testing.assert_array_equal(read_labels(tmp_path / name), labels)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "colors.png")
    with pytest.raises(UserError, match=r"its pixels are colors .* save the labels as a gray or indexed PNG"):
        read_labels(tmp_path / "colors.png")


def test_labels_are_resized_by_their_nearest_pixels():
    labels = np.arange(6, dtype=np.int32).reshape(2, 3)
    np.testing.assert_array_equal(fit_labels(labels, 4, 6), np.repeat(np.repeat(labels, 2, axis=0), 2, axis=1))
    wide = np.arange(8, dtype=np.int32).reshape(2, 4)
    np.testing.assert_array_equal(fit_labels(wide, 2, 2), wide[:, 1:3])
    np.testing.assert_array_equal(fit_labels(np.repeat(np.repeat(labels, 3, 0), 3, 1), 2, 3), labels)


def test_a_label_out_of_range_is_refused(golden, tmp_path):
    Image.fromarray(np.full((64, 64), 12, np.uint8)).save(tmp_path / "labels.png")
    with pytest.raises(UserError, match=r"has label 12, and the model has labels 0 to 11"):
        golden_generator(golden, "semantic").plan(segmentation=str(tmp_path / "labels.png"))
