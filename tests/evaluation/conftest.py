"""Pictures whose first pixel says what they show, a judge that reads it, and an artist who errs where he is told to."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.data.style_scenes.vocabulary import COLOURS, GROUNDS, MONOCHROME, STYLES, SUBJECTS
from rdm_jax.evaluation.drawing import Drawn
from rdm_jax.evaluation.judges import Judge, RealPictures, Verdict

CLASSES = {"subject": list(SUBJECTS), "colour": list(COLOURS), "style": list(STYLES)}
SIZE = 8


def written(labels, seed):
    """Returns a picture of noise with the labels in its first pixel."""
    picture = np.random.default_rng([seed, 7]).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    picture[0, 0] = [names.index(labels[attribute]) for attribute, names in CLASSES.items()]
    return picture


class ReadingJudge(Judge):
    """Names what is written in the first pixel; its features are the second row's pixels."""

    def judge(self, pictures, progress=None):
        classes = pictures[:, 0, 0]
        named = {name: [CLASSES[name][i] for i in classes[:, column]] for column, name in enumerate(CLASSES)}
        return Verdict(named, pictures[:, 1].reshape(len(pictures), -1).astype(np.float32) / 255)


class ErringArtist:
    """Draws every cell as asked but for what `change(position, labels)` returns instead."""

    def __init__(self, change=lambda position, labels: labels, copying=False):
        self.change, self.copying, self.drawn = change, copying, []

    def draw(self, cells, progress):
        images, neighbors = [], []
        for position, cell in enumerate(cells):
            labels = self.change(position, {"subject": cell.subject, "colour": cell.colour, "style": cell.style})
            seed = zlib.crc32(f"{cell.prompt}{cell.noise}{cell.style}".encode())
            images.append(self.thumbnails(cell.database)[position % 20] if self.copying else written(labels, seed))
            neighbors.append([labels, {**labels, "colour": "none"}])
            progress(position + 1, len(cells))
        self.drawn += cells
        return Drawn(np.stack(images), neighbors)

    def thumbnails(self, database):
        labels = {"subject": "cat", "colour": "red", "style": database.replace("-", " ")}
        labels = labels if labels["style"] in STYLES else {**labels, "style": "neon"}
        return np.stack([written(labels, zlib.crc32(database.encode()) + i) for i in range(20)])


def real_pictures(split, indices, progress=None):
    """Returns pictures in the balanced order of the set."""
    labels = [
        {
            "style": STYLES[i % 12],
            "subject": SUBJECTS[i // 12 % 12],
            "colour": list(COLOURS)[i // 144 % 8],
            "ground": list(GROUNDS)[i % 6],
        }
        for i in indices
    ]
    return RealPictures(np.stack([written(one, 10_000 + i) for one, i in zip(labels, indices, strict=True)]), labels)


def drawn_like(labels, seed):
    """Returns pictures with the labels given."""
    images = [written(one, 90_000 + 1_000 * seed + i) for i, one in enumerate(labels)]
    return RealPictures(np.stack(images), [{"ground": "grey", **one} for one in labels])


@pytest.fixture
def fakes(monkeypatch):
    """The fakes above, in the places of the procedural set's pictures."""
    monkeypatch.setattr("rdm_jax.evaluation.style_swap.real_pictures", real_pictures)
    monkeypatch.setattr("rdm_jax.evaluation.comparisons.drawn_like", drawn_like)
    config = {"name": "reader", "classifier": {"classes": CLASSES}}
    config["judging"] = {"unseen": {"colour": {"style": list(MONOCHROME)}}}
    return SimpleNamespace(
        judge=ReadingJudge(Bundle(config, {})), artist=ErringArtist, real_pictures=real_pictures, written=written
    )
