"""Images whose first pixel says what they show, a classifier that reads it, and an cell_generator who errs where he is told to."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.data.style_scenes.vocabulary import COLORS, GROUNDS, MONOCHROME, STYLES, SUBJECTS
from rdm_jax.evaluation.generation import Generated
from rdm_jax.evaluation.classifiers import AttributeClassifier, RealImages, Classification

CLASSES = {"subject": list(SUBJECTS), "colour": list(COLORS), "style": list(STYLES)}
SIZE = 8


def written(labels, seed):
    """Returns an image of noise with the labels in its first pixel."""
    image = np.random.default_rng([seed, 7]).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    image[0, 0] = [names.index(labels[attribute]) for attribute, names in CLASSES.items()]
    return image


class ReadingJudge(AttributeClassifier):
    """Names what is written in the first pixel; its features are the second row's pixels."""

    def classify(self, images, progress=None):
        classes = images[:, 0, 0]
        named = {name: [CLASSES[name][i] for i in classes[:, column]] for column, name in enumerate(CLASSES)}
        return Classification(named, images[:, 1].reshape(len(images), -1).astype(np.float32) / 255)


class ErringGenerator:
    """Draws every cell as asked but for what `change(position, labels)` returns instead."""

    def __init__(self, change=lambda position, labels: labels, copying=False):
        self.change, self.copying, self.generated = change, copying, []

    def generate(self, cells, progress):
        images, neighbors = [], []
        for position, cell in enumerate(cells):
            labels = self.change(position, {"subject": cell.subject, "colour": cell.colour, "style": cell.style})
            seed = zlib.crc32(f"{cell.prompt}{cell.noise}{cell.style}".encode())
            images.append(self.thumbnails(cell.database)[position % 20] if self.copying else written(labels, seed))
            neighbors.append([labels, {**labels, "colour": "none"}])
            progress(position + 1, len(cells))
        self.generated += cells
        return Generated(np.stack(images), neighbors)

    def thumbnails(self, database):
        labels = {"subject": "cat", "colour": "red", "style": database.replace("-", " ")}
        labels = labels if labels["style"] in STYLES else {**labels, "style": "neon"}
        return np.stack([written(labels, zlib.crc32(database.encode()) + i) for i in range(20)])


def real_images(split, indices, progress=None):
    """Returns images in the balanced order of the set."""
    labels = [
        {
            "style": STYLES[i % 12],
            "subject": SUBJECTS[i // 12 % 12],
            "colour": list(COLORS)[i // 144 % 8],
            "ground": list(GROUNDS)[i % 6],
        }
        for i in indices
    ]
    return RealImages(np.stack([written(one, 10_000 + i) for one, i in zip(labels, indices, strict=True)]), labels)


def real_images_like(labels, seed):
    """Returns images with the labels given."""
    images = [written(one, 90_000 + 1_000 * seed + i) for i, one in enumerate(labels)]
    return RealImages(np.stack(images), [{"ground": "grey", **one} for one in labels])


@pytest.fixture
def fakes(monkeypatch):
    """The fakes above, in the places of the procedural set's images."""
    monkeypatch.setattr("rdm_jax.evaluation.style_swap.real_images", real_images)
    monkeypatch.setattr("rdm_jax.evaluation.comparisons.real_images_like", real_images_like)
    config = {"name": "reader", "classifier": {"classes": CLASSES}}
    config["evaluation"] = {"unseen": {"colour": {"style": list(MONOCHROME)}}}
    return SimpleNamespace(
        classifier=ReadingJudge(Bundle(config, {})), cell_generator=ErringGenerator, real_images=real_images, written=written
    )
