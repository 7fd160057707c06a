"""The image set as examples, each from its own seed, and as a TFDS data set in array_record files."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.data.style_scenes.captions import random_caption
from rdm_jax.data.style_scenes.scene import draw
from rdm_jax.data.style_scenes.vocabulary import (
    COLORS,
    GROUNDS,
    HELD_OUT_PAIRS,
    KEPT_OUT,
    NEVER_NAMED,
    SIZE,
    STYLES,
    SUBJECTS,
    Scene,
    in_training,
)

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
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if index < 0:
        raise UserError(f"index {index} is negative; examples are counted from 0")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SPLITS.index(split), index])))
    scene = _balanced_scene(index) if split in BALANCED_SPLITS else _random_scene(split, rng)
    return {
        "image": draw(scene, rng),
        "caption": random_caption(scene, rng),
        "subject": scene.subject,
        "colour": scene.colour,
        "ground": scene.ground,
        "style": scene.style,
        "id": f"{split}/{index:06d}",
    }


def encoded_example(index: int, split: str, seed: int = 0) -> tuple[str, dict[str, Any]]:
    """Returns an example as TFDS takes it: its key, and the example with the image as the bytes of a PNG file."""
    made = example(split, index, seed)
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
    make = functools.partial(encoded_example, split=split, seed=seed)
    if processes is None:
        processes = min(os.cpu_count() or 1, 16) if count >= 2_000 else 1
    if processes == 1:
        yield from map(make, range(count))
        return
    # Fresh processes: a fork would copy the threads' locks of whatever else runs in this one.
    with contextlib.closing(multiprocessing.get_context("spawn").Pool(processes)) as pool:
        yield from pool.imap(make, range(count), chunksize=64)


@dataclass
class StyleScenesConfig(tfds.core.BuilderConfig):
    """How many images each split holds, and the seed of their generators."""

    sizes: dict[str, int] = field(default_factory=lambda: dict(FULL_SIZES))
    seed: int = 0


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
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="64x64 images of twelve subjects in eight colours on six grounds, in twelve styles of art.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
                    "caption": tfds.features.Text(),
                    "subject": tfds.features.ClassLabel(names=SUBJECTS),
                    "colour": tfds.features.ClassLabel(names=list(COLORS)),
                    "ground": tfds.features.ClassLabel(names=list(GROUNDS)),
                    "style": tfds.features.ClassLabel(names=STYLES),
                    "id": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(
                held_out_pairs=[list(pair) for pair in HELD_OUT_PAIRS],
                never_named=list(NEVER_NAMED),
                kept_out=KEPT_OUT,
            ),
            supervised_keys=None,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # Everything is drawn; nothing is downloaded.
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        assert isinstance(config, StyleScenesConfig)
        yield from encoded_examples(split, config.sizes[split], config.seed)
