"""Images with their labels in the first pixel, a classifier that reads it, and a generator that errs on request."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.data.style_scenes.vocabulary import COLORS, GROUNDS, MONOCHROME, STYLES, SUBJECTS
from rdm_jax.evaluation.classifiers import AttributeClassifier, Classification, RealImages
from rdm_jax.evaluation.generation import Generated
from tests.helpers import tiny

CLASSES = {"subject": list(SUBJECTS), "colour": list(COLORS), "style": list(STYLES)}
SIZE = 8


def written(labels, seed):
    """Returns an image of noise with the labels in its first pixel."""
    image = np.random.default_rng([seed, 7]).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    image[0, 0] = [names.index(labels[attribute]) for attribute, names in CLASSES.items()]
    return image


class PixelClassifier(AttributeClassifier):
    """Reads the labels from the first pixel; its features are the second row's pixels."""

    def classify(self, images, progress=None):
        classes = images[:, 0, 0]
        named = {name: [CLASSES[name][i] for i in classes[:, column]] for column, name in enumerate(CLASSES)}
        return Classification(named, images[:, 1].reshape(len(images), -1).astype(np.float32) / 255)


class ErringGenerator:
    """Generates every cell with the labels that `change(position, labels)` returns."""

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
    """Returns images with the given labels."""
    images = [written(one, 90_000 + 1_000 * seed + i) for i, one in enumerate(labels)]
    return RealImages(np.stack(images), [{"ground": next(iter(GROUNDS)), **one} for one in labels])


@pytest.fixture
def fakes(monkeypatch):
    """The fakes above in place of the procedural set's images."""
    monkeypatch.setattr("rdm_jax.evaluation.style_swap.real_images", real_images)
    monkeypatch.setattr("rdm_jax.evaluation.comparisons.real_images_like", real_images_like)
    settings = {"classes": CLASSES, "stem": [2], "widths": [2], "num_groups": 1}
    evaluation = {"unseen": {"colour": {"style": list(MONOCHROME)}}}
    config = {"name": "reader", "classifier": settings, "evaluation": evaluation}
    return SimpleNamespace(
        classifier=PixelClassifier(Bundle(config, {"classifier": tiny.random_params(config, "classifier")})),
        cell_generator=ErringGenerator,
        real_images=real_images,
        written=written,
    )
