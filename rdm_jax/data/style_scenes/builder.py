"""The image set as examples, each from its own seed, and as a TFDS data set in array_record files."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.data.style_scenes.captions import random_caption
from rdm_jax.data.style_scenes.layout import Layout, lay_out
from rdm_jax.data.style_scenes.random_styles import collection
from rdm_jax.data.style_scenes.scene import draw
from rdm_jax.data.style_scenes.styles import UPRIGHT
from rdm_jax.data.style_scenes.vocabulary import (
    COLORS,
    GROUNDS,
    HELD_OUT_PAIRS,
    HELD_OUT_STYLES,
    KEPT_OUT,
    NEVER_NAMED,
    SIZE,
    STYLES,
    SUBJECTS,
    Scene,
    in_training,
)

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0
"""The time between two lines on the progress of drawing a split."""

T = TypeVar("T")

SPLITS: tuple[str, ...] = ("train", "validation", "retrieval", "database", "judge", "test")
"""The splits; a split's place in this tuple is part of its images' seeds."""

TRAINING_SPLITS: tuple[str, ...] = ("train", "validation", "retrieval")
"""Splits without the kept-out style and the held-out pairs."""

BALANCED_SPLITS: tuple[str, ...] = ("database", "test")
"""Splits in which every style, subject and color meet equally often; the others are drawn at random."""

FULL_SIZES: dict[str, int] = {
    "train": 50_000,
    "validation": 2_000,
    "retrieval": 20_000,
    "database": 4_608,
    "judge": 30_000,
    "test": 4_608,
}

TINY_SIZES: dict[str, int] = {
    "train": 1_000,
    "validation": 48,
    "retrieval": 400,
    "database": 144,
    "judge": 600,
    "test": 144,
}

_TRAINING_PAIRS = tuple(pair for pair in itertools.product(SUBJECTS, STYLES) if in_training(*pair))
_ALL_PAIRS = tuple(itertools.product(SUBJECTS, STYLES))


def _balanced_scene(index: int) -> Scene:
    """Returns scene `index` of the balanced order: styles fastest, then subjects, then colors; the grounds cycle."""
    turn, style = divmod(index, len(STYLES))
    turn, subject = divmod(turn, len(SUBJECTS))
    copy, colour = divmod(turn, len(COLORS))
    ground = (style + subject + colour + copy) % len(GROUNDS)
    return Scene(SUBJECTS[subject], list(COLORS)[colour], list(GROUNDS)[ground], STYLES[style])


def _random_scene(split: str, rng: np.random.Generator) -> Scene:
    pairs = _TRAINING_PAIRS if split in TRAINING_SPLITS else _ALL_PAIRS
    subject, style = pairs[int(rng.integers(len(pairs)))]
    colour, ground = list(COLORS)[int(rng.integers(len(COLORS)))], list(GROUNDS)[int(rng.integers(len(GROUNDS)))]
    return Scene(subject, colour, ground, style)


def image_of(labels: Mapping[str, str], rng: np.random.Generator) -> UInt8[np.ndarray, "64 64 3"]:
    """Returns an image with given labels: subject, color, ground and style."""
    return draw(Scene(**labels), rng)


def example(split: str, index: int, seed: int = 0) -> dict[str, Any]:
    """Returns one example; it depends on nothing but the split, its index and the seed.

    Args:
      split: one of `SPLITS`.
      index: its place in the split, from 0; the balanced splits are balanced over each 1,152 in turn.
      seed: the set's seed.

    Returns:
      image (uint8 [64, 64, 3]), caption, subject, colour, ground, style, and id as "train/000123".

    Raises:
      UserError: the split is unknown or the index negative.
    """
    scene, rng = _chosen(split, index, seed)
    return {
        "image": draw(scene, rng),
        "caption": random_caption(scene, rng),
        "subject": scene.subject,
        "colour": scene.colour,
        "ground": scene.ground,
        "style": scene.style,
        "id": f"{split}/{index:06d}",
    }


def laid_out(split: str, index: int, seed: int = 0) -> tuple[str, Layout]:
    """Returns the subject of an example and the parts from which it is drawn; see `example`."""
    scene, rng = _chosen(split, index, seed)
    return scene.subject, lay_out(scene.subject, rng, scene.style in UPRIGHT)


def _chosen(split: str, index: int, seed: int) -> tuple[Scene, np.random.Generator]:
    """Returns what an example shows, and the generator that lays it out next."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if index < 0:
        raise UserError(f"index {index} is negative; examples are counted from 0")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SPLITS.index(split), index])))
    return (_balanced_scene(index) if split in BALANCED_SPLITS else _random_scene(split, rng)), rng


def encoded_example(index: int, split: str, seed: int = 0) -> tuple[str, dict[str, Any]]:
    """Returns an example as TFDS takes it: its key, and the example with the image as the bytes of a PNG file."""
    return _encoded(example(split, index, seed))


def encoded_random_example(index: int, split: str, rows: collection.Rows, seed: int = 0) -> tuple[str, dict[str, Any]]:
    """Returns an example in a random style as TFDS takes it, as `encoded_example` does."""
    return _encoded(collection.example(index, split, rows, seed))


def _encoded(made: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    file = io.BytesIO()
    Image.fromarray(made["image"]).save(file, "PNG", compress_level=4)
    return made["id"], made | {"image": file.getvalue()}


def encoded_examples(
    split: str, count: int, seed: int = 0, processes: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the first `count` examples of a split in order, made by a pool of processes.

    Args:
      split: one of `SPLITS`.
      count: how many.
      seed: the set's seed.
      processes: how many processes; by default one for each core up to 16, and this one alone for under 2,000 examples.
    """
    yield from _in_parallel(functools.partial(encoded_example, split=split, seed=seed), count, processes)


def _in_parallel(
    make: Callable[[int], tuple[str, dict[str, Any]]], count: int, processes: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields what `make` returns for 0 to `count` - 1, in order, made as `encoded_examples` describes."""
    if processes is None:
        processes = min(os.cpu_count() or 1, 16) if count >= 2_000 else 1
    if processes == 1:
        yield from map(make, range(count))
        return
    # Fresh processes: a fork would copy the threads' locks of whatever else runs in this one.
    with contextlib.closing(multiprocessing.get_context("spawn").Pool(processes)) as pool:
        yield from pool.imap(make, range(count), chunksize=64)


def _logged(examples: Iterator[T], split: str, count: int) -> Iterator[T]:
    """Yields the examples, and logs every `LOG_SECONDS` how many there are and how long the others take."""
    start = last = 0.0
    for done, made in enumerate(examples, 1):
        yield made
        now = time.monotonic()
        if done == 1:  # the processes have started
            start = last = now
        elif now - last >= LOG_SECONDS:
            last, rate = now, (done - 1) / (now - start)
            left = (count - done) / rate
            logger.info("drawing %s: %d/%d images, %.0f per second, %.0f s left", split, done, count, rate, left)


@dataclass
class StyleScenesConfig(tfds.core.BuilderConfig):
    """How many images each split holds, and the seed of their generators."""

    sizes: dict[str, int] = field(default_factory=lambda: dict(FULL_SIZES))
    seed: int = 0

    def features(self) -> dict[str, Any]:
        """Returns the features of an example."""
        return {**_shared_features(), "style": tfds.features.ClassLabel(names=STYLES), "id": tfds.features.Text()}

    def metadata(self) -> dict[str, Any]:
        """Returns what is kept out of which images."""
        pairs = [list(pair) for pair in HELD_OUT_PAIRS]
        return {"held_out_pairs": pairs, "never_named": list(NEVER_NAMED), "kept_out": KEPT_OUT}

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of each split."""
        return self.sizes

    def examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields a split's examples as TFDS takes them."""
        return encoded_examples(split, self.sizes[split], self.seed)


@dataclass
class RandomStylesConfig(tfds.core.BuilderConfig):
    """The styles of each split of the set of random styles, and the seed of its scenes."""

    rows: dict[str, collection.Rows] = field(default_factory=lambda: dict(collection.FULL_ROWS))
    seed: int = 0

    def features(self) -> dict[str, Any]:
        """Returns the features of an example."""
        texts = ("style", "words", "technique", "content", "group", "id")
        return {**_shared_features(), "monochrome": np.uint8, **{name: tfds.features.Text() for name in texts}}

    def metadata(self) -> dict[str, Any]:
        """Returns what is kept out of all images."""
        return {"held_out_pairs": [list(pair) for pair in HELD_OUT_PAIRS], "held_out_styles": list(HELD_OUT_STYLES)}

    def counts(self) -> dict[str, int]:
        """Returns the number of examples of each split."""
        return {split: collection.size(split, rows, self.seed) for split, rows in self.rows.items()}

    def examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields a split's examples as TFDS takes them."""
        make = functools.partial(encoded_random_example, split=split, rows=self.rows[split], seed=self.seed)
        return _in_parallel(make, self.counts()[split])


def _shared_features() -> dict[str, Any]:
    return {
        "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
        "caption": tfds.features.Text(),
        "subject": tfds.features.ClassLabel(names=SUBJECTS),
        "colour": tfds.features.ClassLabel(names=list(COLORS)),
        "ground": tfds.features.ClassLabel(names=list(GROUNDS)),
    }


class StyleScenes(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the procedural image set; build it with `file_format="array_record"`."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES = {
        "1.0.0": "First release.",
        "1.1.0": "Larger dots in marlow and pointillism.",
        "1.2.0": "Dots of marlow on the ground too; isolde's stitches larger, and in the same places.",
    }
    BUILDER_CONFIGS = [
        StyleScenesConfig(name="full", description="Every split at its full size."),
        StyleScenesConfig(name="tiny", description="A few images of each kind, for tests.", sizes=dict(TINY_SIZES)),
        RandomStylesConfig(name="random", description="Thousands of random styles beside nine of the named ones."),
        RandomStylesConfig(
            name="random_tiny", description="A few random styles, for tests.", rows=dict(collection.TINY_ROWS)
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="64x64 images of twelve subjects in eight colours on six grounds, in twelve styles of art.",
            features=tfds.features.FeaturesDict(self._config.features()),
            metadata=tfds.core.MetadataDict(**self._config.metadata()),
            supervised_keys=None,
            disable_shuffling=True,
        )

    @property
    def _config(self) -> StyleScenesConfig | RandomStylesConfig:
        config = self.builder_config
        assert isinstance(config, StyleScenesConfig | RandomStylesConfig)
        return config

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # Everything is drawn; nothing is downloaded.
        return {split: self._generate_examples(split) for split in self._config.counts()}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from _logged(self._config.examples(split), split, self._config.counts()[split])
