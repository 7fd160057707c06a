"""The contract between the training loop and what it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Key

from rdm_jax.bundle import Bundle
from rdm_jax.data.pictures import Pictures, load_pictures
from rdm_jax.data.sources import open_source
from rdm_jax.training.config import Config

HELD_OUT_EVERY = 20

Progress = Callable[[str, int, int], None]


@runtime_checkable
class Task(Protocol):
    """One thing to learn.

    Attributes:
      size: the number of records.
    """

    @property
    def size(self) -> int: ...

    def read(self, row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns one training record; `generator` is the record's own in that epoch."""
        ...

    def init(self, key: Key[Array, ""]) -> Any:
        """Returns fresh parameters, {part: tree}."""
        ...

    def loss(
        self, params: Any, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the scalar to minimise and what else to log."""
        ...

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields named values measured on held-out data."""
        ...

    def export(self, params: Any) -> Bundle:
        """Returns the bundle of what was learned."""
        ...


def training_pictures(data: Config, split: str, progress: Progress) -> Pictures:
    """Returns the pictures that `config.data` names, of one split, cached under its `data_dir`.

    Args:
      data: `source` (folder, zip or TFDS name), `data_dir`, `size`.
      split: which split of the source, "" for a folder or zip that has none.
      progress: called with (what, done, total).
    """
    source = open_source(data.source, split=split or None, data_dir=data.data_dir or None)
    cache = Path(data.data_dir or "data") / "cache"
    return load_pictures(source, data.size, cache, lambda *at: progress(f"reading pictures {split}".strip(), *at))


def training_and_held_out(data: Config, progress: Progress) -> tuple[Pictures, Pictures]:
    """Returns the pictures to train on and those to evaluate on.

    The latter are the split `data.held_out`; where that is empty, every `HELD_OUT_EVERY`-th picture of the source.
    """
    pictures = training_pictures(data, data.split, progress)
    if data.held_out:
        return pictures, training_pictures(data, data.held_out, progress)
    rows = np.arange(len(pictures))
    held_out = rows % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return pictures.take(rows[~held_out]), pictures.take(rows[held_out])
