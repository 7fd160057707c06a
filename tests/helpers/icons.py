"""Icons whose first pixels hold their style and their caption, and a classifier that reads these."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.data.examples import Example
from rdm_jax.evaluation.classifiers import AttributeClassifier, Classification
from rdm_jax.evaluation.icon_set_bench import Bench, Icons, cells_of
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.encoder import ClipEncoder
from tests.helpers import tiny

SIZE = 16
STYLES = ("pixelarticons", "game-icons", "memory")
OTHERS = ("outline", "filled")
WORDS = 3
CELLS = cells_of(STYLES, WORDS)
CAPTIONS = (*dict.fromkeys(cell.word for cell in CELLS), "teddy bear", "snow boot", "old shoe", "odd sock")
CLASSES = {"style": [*OTHERS, *STYLES], "caption": [*CAPTIONS, *(f"other {i}" for i in range(20))]}


def icon(style: str, caption: str, seed: int = 0) -> np.ndarray:
    """Returns an image of random ink on white with its labels in the first pixel."""
    generator = np.random.default_rng([zlib.crc32(f"{style}/{caption}".encode()), seed])
    image = np.full((SIZE, SIZE, 3), 255, np.uint8)
    image[2:-2, 2:-2] = np.where(generator.random((SIZE - 4, SIZE - 4, 1)) < 0.4, 0, 255)
    image[0, 0] = CLASSES["style"].index(style), CLASSES["caption"].index(caption), 0
    return image


def icons(name: str, styles: tuple[str, ...], captions: tuple[str, ...] = CAPTIONS) -> Icons:
    """Returns one icon of each caption in each style."""
    pairs = [(style, caption) for style in styles for caption in captions]
    images = np.stack([icon(*pair) for pair in pairs])
    return Icons(
        name, images, [caption for _, caption in pairs], [style for style, _ in pairs], [(c,) for _, c in pairs]
    )


def bench() -> Bench:
    """Returns all styles with all captions."""
    return Bench({style: icons(style, (style,)) for style in STYLES}, icons("content", OTHERS), CELLS)


class PixelClassifier(AttributeClassifier):
    """Reads the labels from the first pixel; the next caption by number is the second likeliest, and so on."""

    def classify(self, images, progress=None):
        """Returns the labels as features."""
        labels = images[:, 0, 0].astype(np.float32)
        named = {name: [CLASSES[name][int(i)] for i in labels[:, at]] for at, name in enumerate(CLASSES)}
        return Classification(named, labels + 1)

    def logits(self, features):
        """Returns logits that fall with the distance to the number of the label."""
        labels = features - 1
        return {
            name: -np.abs(np.arange(len(classes))[None] - labels[:, at, None])
            for at, (name, classes) in enumerate(CLASSES.items())
        }


def classifier(**evaluation) -> PixelClassifier:
    """Returns the classifier, with what is recorded of its training."""
    settings = {"classes": CLASSES, "stem": [2], "widths": [2], "num_groups": 1}
    config = {"name": "reader", "classifier": settings, "evaluation": evaluation}
    return PixelClassifier(Bundle(config, {"classifier": tiny.random_params(config, "classifier")}))


class Fake:
    """An arm whose image of a cell `make(number, cell)` returns."""

    def __init__(self, make, name="model"):
        self.make, self.name, self.title = make, name, f"the {name} arm"

    def generate(self, cells, progress):
        """Returns the image of each cell."""
        images = [self.make(number, cell) for number, cell in enumerate(cells)]
        progress(len(cells), len(cells))
        return np.stack(images)


class Source:
    """A source of icons with their styles, and one tag of each."""

    def __init__(self, styles: tuple[str, ...], captions: tuple[str, ...] = CAPTIONS) -> None:
        self._pairs = [(style, caption) for style in styles for caption in captions]
        self.name, self.captions, self.fingerprint = "icons", "metadata.jsonl", f"{len(self._pairs):064x}"

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Example:
        labels = self.labels(index)
        attributes = {key: labels[key] for key in ("style", "tags")}
        return Example(icon(*self._pairs[index]), labels["caption"], labels["path"], attributes)

    @property
    def shard_lengths(self) -> tuple[int, ...]:
        """One file."""
        return (len(self),)

    def labels(self, index: int) -> dict[str, str]:
        """Returns what is known of an icon."""
        style, caption = self._pairs[index]
        tags = f"thing {index}, icon"
        return {"style": style, "caption": caption, "path": f"{style}/{index}.png", "tags": tags}


def database(folder: Path, name: str, styles: tuple[str, ...], model: Bundle) -> Path:
    """Builds a database of the icons of styles and returns its folder."""
    job = BuildJob.of(Source(styles), ClipEncoder(model, batch_size=8), BuildOptions(name=name))
    build_database(job, folder / name)
    return folder / name
