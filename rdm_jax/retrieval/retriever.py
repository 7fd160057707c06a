"""Finds the neighbors of query vectors in one database or several."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped

from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import EVERYTHING, Selection
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.diversity import diverse
from rdm_jax.retrieval.duplicates import check_threshold
from rdm_jax.retrieval.encoder import RetrievalEncoder
from rdm_jax.retrieval.index import Index
from rdm_jax.retrieval.indexing import make_index
from rdm_jax.retrieval.selected import SelectedIndex

_LOG = logging.getLogger(__name__)

# Diverse neighbors are selected from this many times as many candidates.
POOL = 4


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The nearest rows of each query, best first.

    Attributes:
      ids: [q, k] row ids, each in its own database.
      scores: [q, k] cosines.
      embeddings: [q, k, d] the rows as the encoder returned them, not normalized.
      databases: [q, k] the name of each row's database.
    """

    ids: Int64[np.ndarray, "q k"]
    scores: Float32[np.ndarray, "q k"]
    embeddings: Float32[np.ndarray, "q k d"]
    databases: Shaped[np.ndarray, "q k"]


def map_neighbors(function: Callable[..., np.ndarray], *several: Neighbors) -> Neighbors:
    """Returns neighbors whose fields are a function of the same fields of several."""
    names = [field.name for field in dataclasses.fields(Neighbors)]
    return Neighbors(**{name: function(*(getattr(one, name) for one in several)) for name in names})


@dataclasses.dataclass(frozen=True)
class Retriever:
    """Finds neighbors in databases that one encoder made.

    Attributes:
      encoder: the encoder of the queries.
      databases: the databases to search, with distinct names.
      weights: proportional to the number of neighbors from each database; if None, the best of all are taken.
      index: a name in `indexing.INDEXES`.
      selection: the rows to search.
      diversity: in [0, 1], how much neighbors should differ from each other; 0 takes the nearest.
      duplicates: omits a neighbor with at least this cosine to a better one; omits none if None.

    Raises:
      UserError: another encoder made a database, two databases have the same name, the weights do not fit, or a number
        is out of range.
    """

    encoder: RetrievalEncoder
    databases: Sequence[Database]
    weights: Sequence[float] | None = None
    index: str = "auto"
    selection: Selection = EVERYTHING
    diversity: float = 0.0
    duplicates: float | None = None

    def __post_init__(self) -> None:
        if not self.databases:
            raise UserError("there is no database to retrieve from; give one or more")
        names = [database.name for database in self.databases]
        if len(set(names)) < len(names):
            raise UserError(f"databases {', '.join(names)} do not all have different names; give each one only once")
        for database in self.databases:
            database.check_encoder(self.encoder.identity)
        if not 0 <= self.diversity <= 1:
            raise UserError(f"diversity {self.diversity} is out of range; give 0 to 1")
        check_threshold(self.duplicates)
        if self.weights is not None:
            weights = np.asarray(self.weights, np.float64)
            if (
                weights.shape != (len(names),)
                or not np.isfinite(weights).all()
                or (weights < 0).any()
                or not weights.any()
            ):
                raise UserError(
                    f"weights {', '.join(map(str, self.weights))} do not fit the databases {', '.join(names)}; give "
                    "one weight of 0 or more for each, not all 0"
                )

    def at_most(self, k: int) -> int:
        """Returns k, or the largest number of neighbors that there are, with a note in the log if that is less.

        It is for a default, which fits any database; a number that the user gives is not lowered.
        """
        sizes = [self._size(number) for number in range(len(self.databases))]
        lowered = min(k, sum(sizes))
        while self.weights is not None and lowered > 1:
            if all(count <= size for count, size in zip(apportion(self.weights, lowered), sizes, strict=True)):
                break
            lowered -= 1
        lowered = max(1, lowered)
        if lowered < k:
            self._note_lower(k, lowered)
        return lowered

    def retrieve(self, queries: Float[np.ndarray, "q d"], k: int, *, default: bool = False) -> Neighbors:
        """Returns the k nearest rows of each query vector.

        Args:
          queries: [q, d] vectors of the encoder, of any length.
          k: the number of neighbors from all databases together.
          default: k is nobody's choice: where there are fewer neighbors, these are returned.

        Raises:
          UserError: k is below 1, or above the number of rows.
        """
        k = self.at_most(k) if default else k
        sizes = [self._size(number) for number in range(len(self.databases))]
        if not 1 <= k <= sum(sizes):
            names = ", ".join(database.name for database in self.databases)
            limits = f", give 1 to {sum(sizes)}" if any(sizes) else ""
            available = f"{names} has {sum(sizes)} rows{self._of_selection()}"
            raise UserError(f"k {k} is out of range; {available}{limits}")
        if self.weights is None:
            return self._select(queries, k, [min(k, size) for size in sizes], sizes, default)
        counts = apportion(self.weights, k)
        for database, count, size in zip(self.databases, counts, sizes, strict=True):
            if count > size:
                available = f"database {database.name!r} has {size} rows{self._of_selection(database)}"
                raise UserError(f"{available}, and its weight requires {count}; lower k or its weight")
        return self._select(queries, k, counts, sizes, default)

    def _select(
        self, queries: np.ndarray, k: int, counts: Sequence[int], sizes: Sequence[int], default: bool
    ) -> Neighbors:
        """Returns k rows, at most `counts` from each database, by the diversity and the duplicate threshold."""
        if self.diversity == 0 and self.duplicates is None:
            return _nearest([self._search(i, queries, count) for i, count in enumerate(counts)], k)
        quotas = {database.name: count for database, count in zip(self.databases, counts, strict=True)}
        times = POOL
        while True:
            pools = [min(times * count, size) for count, size in zip(counts, sizes, strict=True)]
            candidates = _nearest([self._search(i, queries, pool) for i, pool in enumerate(pools)], times * k)
            selected = [
                diverse(scores, embeddings, k, self.diversity, self.duplicates, origins, quotas)
                for scores, embeddings, origins in zip(
                    candidates.scores, candidates.embeddings, candidates.databases, strict=True
                )
            ]
            if all(len(places) == k for places in selected):
                return _take(candidates, np.stack(selected) if selected else np.zeros((0, k), np.int64))
            exhausted = all(pool in (0, size) for pool, size in zip(pools, sizes, strict=True))
            if exhausted and times * k >= sum(pools):
                fewest = min(map(len, selected))
                if default:
                    self._note_lower(k, fewest)
                    return _take(candidates, np.stack([places[:fewest] for places in selected]))
                raise UserError(
                    f"there are only {fewest} neighbors with a cosine below {self.duplicates} to each "
                    f"other; lower k from {k}, or raise the threshold for duplicates"
                )
            times *= POOL

    def _note_lower(self, k: int, lowered: int) -> None:
        names = ", ".join(database.name for database in self.databases)
        _LOG.info("%d neighbors and not %d, the default: %s has no more of them", lowered, k, names)

    def _of_selection(self, database: Database | None = None) -> str:
        if not self.selection:
            return ""
        values = (database or self.databases[0]).describe_values(self.selection)
        return f" that the selection admits{f' ({values})' if values else ''}"

    def _size(self, number: int) -> int:
        return len(self.databases[number]) if not self.selection else int(self._admitted[number].sum())

    @functools.cached_property
    def _admitted(self) -> list[np.ndarray]:
        return [database.mask(self.selection) for database in self.databases]

    @functools.cached_property
    def _indexes(self) -> list[Index]:
        indexes = [make_index(database, self.index) for database in self.databases]
        if not self.selection:
            return indexes
        return [
            SelectedIndex(database.rows, index, admitted)
            for database, index, admitted in zip(self.databases, indexes, self._admitted, strict=True)
        ]

    def _search(self, number: int, queries: np.ndarray, k: int) -> Neighbors:
        database = self.databases[number]
        ids, scores = self._indexes[number].search(queries, k) if k else _no_rows(len(queries))
        embeddings = database.embeddings(ids.reshape(-1)).reshape(*ids.shape, database.width)
        return Neighbors(ids, scores, embeddings, np.full(ids.shape, database.name))


def apportion(weights: Sequence[float], k: int) -> list[int]:
    """Returns k split in proportion to the weights, by the largest remainders; of equal ones, the earlier first."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * k
    counts = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: k - counts.sum()]] += 1
    return counts.tolist()


def _no_rows(queries: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((queries, 0), np.int64), np.zeros((queries, 0), np.float32)


def _nearest(parts: Sequence[Neighbors], k: int) -> Neighbors:
    """Returns the k best of several parts, equal scores in the order of the parts."""
    if len(parts) == 1:
        return parts[0]
    joined = Neighbors(
        ids=np.concatenate([part.ids for part in parts], axis=1),
        scores=np.concatenate([part.scores for part in parts], axis=1),
        embeddings=np.concatenate([part.embeddings for part in parts], axis=1),
        databases=np.concatenate([part.databases for part in parts], axis=1),
    )
    return _take(joined, np.argsort(-joined.scores, axis=1, kind="stable")[:, :k])


def _take(neighbors: Neighbors, places: Int64[np.ndarray, "q k"]) -> Neighbors:
    """Returns the neighbors at some places of each query's list."""
    return Neighbors(
        ids=np.take_along_axis(neighbors.ids, places, axis=1),
        scores=np.take_along_axis(neighbors.scores, places, axis=1),
        embeddings=np.take_along_axis(neighbors.embeddings, places[:, :, None], axis=1),
        databases=np.take_along_axis(neighbors.databases, places, axis=1),
    )
