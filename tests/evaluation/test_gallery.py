"""References and prompts of a gallery: spread over the labels, prompts without a style, one word changed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.images import decode
from rdm_jax.evaluation import gallery
from rdm_jax.evaluation.gallery import Gallery
from rdm_jax.retrieval.database import Database

CLASSES = {"subject": ["boat", "tree"], "colour": ["blue", "red"], "style": ["mosaic", "neon", "woodcut"]}


@pytest.fixture
def images():
    """Two of each subject, color and style; the first names its style, the second does not."""
    labels = [
        {"subject": subject, "colour": color, "style": style}
        for subject in CLASSES["subject"]
        for color in CLASSES["colour"]
        for style in CLASSES["style"]
        for _ in range(2)
    ]
    captions = [f"a {one['colour']} {one['subject']}" for one in labels]
    captions = [f"{caption}, {one['style']}" if i % 2 == 0 and one["style"] != "woodcut" else caption
                for i, (caption, one) in enumerate(zip(captions, labels, strict=True))]  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4, 3), dtype=np.uint8)
    return Gallery(images, captions, labels)


def test_rows_are_spread_over_all_labels(images):
    rows = gallery.spread(images.labels, 12)
    assert len(set(rows)) == 12
    for attribute, names in CLASSES.items():
        assert Counter(images.labels[row][attribute] for row in rows) == {name: 12 // len(names) for name in names}


def test_targets_have_a_prompt_of_another_style_that_names_none(images, tmp_path):
    targets, taken = gallery.choose_targets(images, CLASSES, 4, tmp_path)
    assert [target.number for target in targets] == [0, 1, 2, 3] and len(taken) == 8
    for target in targets:
        assert (decode(target.file.read_bytes()) == target.image).all()
        assert not any(gallery.is_named(target.prompt, style) for style in CLASSES["style"])
        assert target.prompt_labels["style"] != target.labels["style"]
        assert target.style in ("mosaic", "neon") and target.style != target.prompt_labels["style"]
        differ = {name for name in CLASSES if target.changed_labels[name] != target.prompt_labels[name]}
        assert differ == {"colour"} and target.changed_labels["colour"] in target.changed
        assert (
            gallery.named_labels(target.caption, target.labels).items() >= {"subject": target.labels["subject"]}.items()
        )


def test_the_first_mention_is_changed_and_whole_words_alone():
    labels = {"subject": "boat", "colour": "red"}
    changed, labels_then = gallery.changed_prompt("a red boat on a red ground, reddish", labels, CLASSES, 0)
    assert changed == "a blue boat on a red ground, reddish" and labels_then == {"subject": "boat", "colour": "blue"}
    assert gallery.changed_prompt("nothing of it", labels, CLASSES, 0) == ("", {})
    assert not gallery.is_named("cathedral", "cat") and gallery.is_named("a cat.", "cat")


class Stored(Database):
    """The parts of a database that a gallery reads."""

    def __init__(self, name, numbers):
        object.__setattr__(self, "path", Path(name))
        object.__setattr__(self, "numbers", list(numbers))

    name = property(lambda self: self.path.name)
    has_thumbnails = property(lambda self: True)

    def __len__(self):
        return len(self.numbers)

    def items(self, ids):
        stored = [(f"thing {self.numbers[i]}", f"{self.name}{self.numbers[i]}") for i in ids]
        return [{"caption": caption, "sha256": sha, "attributes": {"licence": "none"}} for caption, sha in stored]

    def thumbnails(self, ids):
        return np.zeros((len(ids), 6, 6, 3), np.uint8)


def test_the_databases_name_stands_for_a_missing_attribute_and_unknown_ones_are_left_out():
    databases = [Stored("noto", range(6)), Stored("lineart", [*range(5), 4])]
    opened = gallery.open_gallery(databases, {"folder": ["lineart", "noto"], "size": ["big"]}, 4)
    assert opened.images.shape == (11, 4, 4, 3)  # one image is there twice
    assert Counter(labels["folder"] for labels in opened.labels) == {"noto": 6, "lineart": 5}
    assert (
        all(labels.keys() == {"folder"} for labels in opened.labels) and gallery.style_attribute(["folder"]) == "folder"
    )
    with pytest.raises(UserError, match="databases noto hold too few images"):
        gallery.open_gallery([Stored("noto", range(3))], {}, 4)
