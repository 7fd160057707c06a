"""Embedding rows as one array [n, d] that is read from disk only where it is indexed."""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, Integer

# With at most this many rows per shard, rows are read one by one.
FEW = 4

Ids = Sequence[int] | Integer[np.ndarray, " n"]


@runtime_checkable
class RowReader(Protocol):
    """Rows [n, d] that are read on access: an array, the shards of a database, or some rows of either."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> np.ndarray:
        """Returns the rows of a slice without a step, or of ids."""
        ...


@dataclasses.dataclass(frozen=True)
class ShardedRows:
    """Embedding shards as one array [n, d]."""

    shards: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self.ends[-1], self.shards[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        """float16 or float32."""
        return self.shards[0].dtype

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, key: slice | Ids) -> np.ndarray:
        """Returns the rows of a slice without a step, or of ids, copied into memory."""
        if isinstance(key, slice):
            start, stop, _ = key.indices(len(self))
            return self._span(start, stop)
        ids = np.asarray(key, np.int64)
        if len(self.shards) == 1:
            return self._arrays[0][ids]
        if len(ids) <= FEW * len(self.shards):
            return self._one_by_one(ids.tolist())
        numbers = np.searchsorted(self.ends, ids, side="right")
        rows = np.empty((len(ids), self.shape[1]), self.dtype)
        for number in np.unique(numbers):
            places = numbers == number
            rows[places] = self._arrays[number][ids[places] - self.starts[number]]
        return rows

    def _one_by_one(self, ids: Sequence[int]) -> np.ndarray:
        """Returns rows one by one, which is faster than shard by shard if most shards contain none of them."""
        rows = np.empty((len(ids), self.shape[1]), self.dtype)
        for place, row in enumerate(ids):
            number = bisect.bisect_right(self.ends, row)
            rows[place] = self._arrays[number][row - self.starts[number]]
        return rows

    @functools.cached_property
    def _arrays(self) -> list[np.ndarray]:
        return [np.asarray(shard) for shard in self.shards]  # the same memory, without the cost of indexing a memmap

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def _span(self, start: int, stop: int) -> np.ndarray:
        first = bisect.bisect_right(self.ends, start)
        parts = [np.empty((0, self.shape[1]), self.dtype)]
        for shard, offset in zip(self.shards[first:], self.starts[first:], strict=True):
            if offset >= stop:
                break
            parts.append(shard[max(0, start - offset) : stop - offset])
        return np.concatenate(parts)

    @functools.cached_property
    def ends(self) -> list[int]:
        """The number of rows up to the end of each shard."""
        return np.cumsum([len(shard) for shard in self.shards]).tolist()

    @functools.cached_property
    def starts(self) -> list[int]:
        """The id of the first row of each shard."""
        return [0, *self.ends[:-1]]


@dataclasses.dataclass(frozen=True)
class SelectedRows:
    """Some rows of a database as an array [n, d].

    Attributes:
      rows: all rows.
      ids: the numbers of the selected ones.
    """

    rows: RowReader
    ids: Int64[np.ndarray, " n"]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return len(self.ids), self.rows.shape[1]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        return self.rows[self.ids[key]]
