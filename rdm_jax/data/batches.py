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
AHEAD = 8


class _Rows(Sequence[int]):
    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: Any) -> Any:
        return int(row)


class _Share(grain.MapDataset[Record]):
    """This process's part of each global batch: a run of records, so that the parts in a row are the batch."""

    def __init__(self, records: grain.MapDataset[Record], batch_size: int, process: int, processes: int) -> None:
        super().__init__(records)
        self._batch_size, self._part, self._first = (
            batch_size,
            batch_size // processes,
            process * batch_size // processes,
        )

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * self._part

    def __getitem__(self, index: Any) -> Any:
        batch, place = divmod(index, self._part)
        return self._parent[batch * self._batch_size + self._first + place]


def training_batches(
    read: Read,
    size: int,
    batch_size: int,
    seed: int,
    threads: int = 4,
    complete: Callable[[Record], Record] = lambda batch: batch,
) -> grain.DatasetIterator:
    """Returns an endless iterator over this process's part of shuffled global batches.

    Every epoch has its own order. Global batch i, in its order, depends on the seed alone, not on the number of
    processes; `get_state` and `set_state` of the iterator make it resume.

    Args:
      read: (row, random generator of that row in that epoch) -> record of arrays.
      size: the number of rows.
      batch_size: records in a global batch.
      seed: of the order and of the generators.
      threads: how many batches are made at once.
      complete: adds to this process's part of a batch what is read for all its records at once.

    Raises:
      UserError: the number of processes does not divide the batch, or there are no rows.
    """
    processes = jax.process_count()
    if batch_size < 1 or batch_size % processes:
        raise UserError(f"batch_size={batch_size} does not divide by {processes} processes; choose a multiple")
    if size < 1:
        raise UserError("the data set has no rows; check its name, split and folder")
    rows = grain.MapDataset.source(_Rows(size)).seed(seed).shuffle().repeat()
    records = rows.random_map(lambda row, generator: read(row, generator))
    own = _Share(records, batch_size, jax.process_index(), processes)
    batches = own.batch(batch_size // processes).map(complete)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=AHEAD)))
