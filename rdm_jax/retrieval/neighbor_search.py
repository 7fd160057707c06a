"""Finds the neighbors of examples in a database, by the options of a neighbor job."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.duplicates import SAME, check_threshold
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.index import Index
from rdm_jax.retrieval.indexing import make_index
from rdm_jax.retrieval.rows import SelectedRows

# The largest number of examples in a part if the files of the data set are unknown, or one file holds all examples.
PART_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class NeighborOptions:
    """Which neighbors are computed.

    Attributes:
      k: the number of neighbors of each example.
      embeddings: whether the rows are stored too, in float16.
      duplicates: omits rows of the example's own image, by equal pixels or a cosine of at least this, so that in a
        database that shares images with the data set an example is not its own neighbor; keeps them if None.
      within: an attribute; the neighbors of an example have the same value of it. A model then learns from one
        collection at a time (one artist, one style), as when it samples with a database of one style.
      index: a name in `indexing.INDEXES`.
      part_size: the largest number of examples in a part if the data set is one file.

    Raises:
      UserError: the cosine is not in (0, 1].
    """

    k: int
    embeddings: bool = True
    duplicates: float | None = SAME
    within: str | None = None
    index: str = "auto"
    part_size: int = PART_SIZE

    def __post_init__(self) -> None:
        check_threshold(self.duplicates)


def most_neighbors(database: Database, within: str | None, duplicates: bool) -> int:
    """Returns the number of neighbors that every example has, 1 or more; a default k is not larger.

    Args:
      database: the rows.
      within: the attribute that neighbors share with their example.
      duplicates: whether the rows of an example's own image are omitted.
    """
    values = [None] * len(database) if within is None else database.column(within).to_pylist()
    hashes = database.image_hashes() if duplicates else [""] * len(database)
    rows = Counter(value for value in values if within is None or value is not None)
    own = Counter(pair for pair in zip(values, hashes, strict=True) if pair[1])
    largest: Counter[str | None] = Counter()
    for (value, _), count in own.items():
        largest[value] = max(largest[value], count)
    return max(1, min((count - largest[value] for value, count in rows.items()), default=1))


@dataclasses.dataclass(frozen=True)
class _Collection:
    """Rows of a database that are searched separately: all of them if `ids` is None."""

    ids: np.ndarray | None
    index: Index
    size: int

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids, scores = self.index.search(queries, k)
        return (ids if self.ids is None else self.ids[ids]), scores


def _collections(database: Database, within: str | None, index: str) -> dict[str | None, _Collection]:
    """Returns one collection for each value of an attribute, or a single one of all rows under the name None."""
    if within is None:
        return {None: _Collection(None, make_index(database, index), len(database))}
    values = np.array(database.column(within).to_pylist(), object)
    groups = {str(value): np.flatnonzero(values == value) for value in set(values.tolist()) - {None}}
    if not groups:
        raise UserError(f"no row of database {database.name!r} has the attribute {within!r}; see `rdm database info`")
    rows = {name: SelectedRows(database.rows, ids) for name, ids in groups.items()}
    return {name: _Collection(groups[name], ExactIndex(group), len(group)) for name, group in rows.items()}


@dataclasses.dataclass(frozen=True)
class Searcher:
    """Finds the k nearest rows of examples, without their own images if the options omit them.

    Attributes:
      database: the rows.
      collections: the rows to search for each value of the attribute `within`.
      options: which neighbors are computed.
    """

    database: Database
    collections: Mapping[str | None, _Collection]
    options: NeighborOptions

    @staticmethod
    def of(database: Database, options: NeighborOptions) -> Searcher:
        """Returns the searcher of a database; raises UserError if no row has the attribute `within`."""
        return Searcher(database, _collections(database, options.within, options.index), options)

    def search(self, queries: np.ndarray, items: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids [q, k] and scores [q, k] for examples by their embeddings [q, d] and items."""
        k, within = self.options.k, self.options.within
        names = [None if within is None else str(item["attributes"].get(within)) for item in items]
        own = np.array([_short_hash(item["sha256"]) for item in items], np.uint64)
        ids = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for name in dict.fromkeys(names):
            places = np.array([i for i, other in enumerate(names) if other == name])
            ids[places], scores[places] = self._search(self._collection(name), queries[places], own[places])
        return ids, scores

    def _collection(self, name: str | None) -> _Collection:
        collection, within = self.collections.get(name), self.options.within
        if collection is None or collection.size < self.options.k:
            raise UserError(
                f"database {self.database.name!r} has {collection.size if collection else 0} rows with {within} "
                f"{name!r}, fewer than k = {self.options.k}; lower k, or do not restrict neighbors to their {within!r}"
            )
        return collection

    def _search(self, collection: _Collection, queries: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k nearest rows that are not duplicates; searches more rows until there are enough."""
        k, threshold = self.options.k, self.options.duplicates
        if threshold is None:
            return collection.search(queries, k)
        candidates = k + 8
        while True:
            candidates = min(candidates, collection.size)
            ids, scores = collection.search(queries, candidates)
            kept = (self._image_hashes[ids] != own[:, None]) & (scores < threshold)
            if (kept.sum(axis=1) >= k).all():
                first = np.argsort(~kept, axis=1, kind="stable")[:, :k]
                return np.take_along_axis(ids, first, axis=1), np.take_along_axis(scores, first, axis=1)
            if candidates == collection.size:
                raise UserError(
                    f"database {self.database.name!r} has fewer than {k} rows for an example when its duplicates are "
                    f"excluded; lower k from {k}"
                )
            candidates *= 2

    @functools.cached_property
    def _image_hashes(self) -> np.ndarray:
        return np.array([_short_hash(value) for value in self.database.image_hashes()], np.uint64)


def _short_hash(sha256: str) -> int:
    """Returns the first 64 bits of a hash, so that millions of them fit into memory."""
    return int(sha256[:16] or "0", 16)
