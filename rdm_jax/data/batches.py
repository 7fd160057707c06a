"""Endless shuffled batches of records, the same at any process count, with a state that resumes (grain)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grain
import jax
import numpy as np

from rdm_jax.core.errors import UserError

Record = dict[str, np.ndarray]
Read = Callable[[int, np.random.Generator], Record]


class _Rows(Sequence[int]):
    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: Any) -> Any:
        return int(row)


def training_batches(read: Read, size: int, batch_size: int, seed: int, threads: int = 4) -> grain.DatasetIterator:
    """Returns an endless iterator over this process's part of shuffled global batches.

    Every epoch has its own order. Which records make up global batch i depends on the seed alone, not on the number
    of processes; `get_state` and `set_state` of the iterator make it resume.

    Args:
      read: (row, random generator of that row in that epoch) -> record of arrays.
      size: the number of rows.
      batch_size: records in a global batch.
      seed: of the order and of the generators.
      threads: how many records are read at once.

    Raises:
      UserError: the number of processes does not divide the batch, or there are no rows.
    """
    processes = jax.process_count()
    if batch_size < 1 or batch_size % processes:
        raise UserError(f"batch_size={batch_size} does not divide by {processes} processes; choose a multiple")
    if size < 1:
        raise UserError("the data set has no rows; check its name, split and folder")
    rows = grain.MapDataset.source(_Rows(size)).seed(seed).shuffle().repeat()
    rows = rows[jax.process_index() :: processes]
    records = rows.random_map(lambda row, generator: read(row, generator)).batch(batch_size // processes)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8)
    return iter(records.to_iter_dataset(options))
