"""The contract between the training loop and what it trains."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Key, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet, load_images, stream_images
from rdm_jax.data.sources import open_source
from rdm_jax.data.tfds_source import prepare_own
from rdm_jax.training.config import Config
from rdm_jax.training.state import Held

HELD_OUT_EVERY = 20

Progress = Callable[[str, int, int], None]


class Task(abc.ABC):
    """One thing to learn: its records, its parameters, its loss, and what is measured, shown and exported."""

    config: Config

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of records in an epoch."""

    @property
    def frozen(self) -> Any:
        """Parameters that the loss reads and nothing changes, on the host; placed once, on every device."""
        return {}

    @property
    def record(self) -> dict[str, str]:
        """Hashes of what the run is made from, for its checkpoints."""
        return {}

    @abc.abstractmethod
    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns one training record; `generator` is the record's own in that epoch."""

    def complete(self, batch: Record) -> Record:
        """Returns a batch of records with what is read for all of them at once."""
        return batch

    @abc.abstractmethod
    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns fresh parameters, {part: tree}, and stats."""

    def averaged(self, params: Any) -> Any:
        """Returns the parts that have a moving average: those that are evaluated and exported."""
        return params

    @abc.abstractmethod
    def loss(
        self, params: Any, held: Held, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the scalar to minimise, what else to log, and the stats afterwards."""

    @abc.abstractmethod
    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields named values measured on held-out data with averaged parameters."""

    def figures(self, params: Any) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
        """Yields named pictures of what the averaged parameters do, the same inputs and seeds at every step."""
        return iter(())

    @abc.abstractmethod
    def export(self, params: Any) -> Bundle:
        """Returns the bundle of what was learned, from averaged parameters."""


def training_pictures(data: Config, split: str, progress: Progress) -> ImageSet:
    """Returns the pictures that `config.data` names, of one split.

    Args:
      data: `source` (folder, zip or TFDS name), `data_dir`, `size`; `cache`: decoded once, into `data_dir`, or every
        time; `prepare`: draw a procedural set that is not there yet.
      split: which split of the source, "" for a folder or zip that has none.
      progress: called with (what, done, total).
    """
    if data.prepare:
        prepare_own(data.source, data.data_dir or None)
    source = open_source(data.source, split=split or None, data_dir=data.data_dir or None)
    if not data.cache:
        return stream_images(source, data.size)
    cache = Path(data.data_dir or "data") / "cache"
    return load_images(source, data.size, cache, lambda *at: progress(f"reading pictures {split}".strip(), *at))


def training_and_held_out(data: Config, progress: Progress) -> tuple[ImageSet, ImageSet]:
    """Returns the pictures to train on and those to evaluate on.

    The latter are the split `data.held_out`; where that is empty, every `HELD_OUT_EVERY`-th picture of the source.
    """
    pictures = training_pictures(data, data.split, progress)
    if data.held_out:
        return pictures, training_pictures(data, data.held_out, progress)
    rows = np.arange(len(pictures))
    held_out = rows % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return pictures.take(rows[~held_out]), pictures.take(rows[held_out])


def blank_picture(size: int) -> ImageSet:
    """Returns one blank picture of a size, for tasks that nothing is to be learned in."""
    return ImageSet(np.zeros((1, size, size, 3), np.uint8), [""], [{}], np.arange(1), "0" * 64)
