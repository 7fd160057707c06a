"""Nearest rows by cosine: the contract of an index, and exact search in JAX.

Every index proposes candidates, and `rescore` orders them: scores and order are the same whichever index found them.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int64

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.mesh import batch_sharding, local_mesh, replicated
from rdm_jax.retrieval.database import Database

_LOG = logging.getLogger(__name__)

KINDS = ("auto", "exact", "scann")
# Rows are padded to a multiple of PAD and searched in chunks of at most CHUNK: databases of like size share a program.
PAD = 2048
CHUNK = 2**17
QUERIES = 256
# Candidates beyond k, so that ties and rounding at the edge do not change the result.
MARGIN = 8
# So many rows are compared exactly at a time: they fit into the processor's cache.
RESCORED = 2048
DEVICE_BYTES = 2**31
# From here on the approximate index is quicker on a CPU by more than its building costs.
AUTO_SCANN_ROWS = 500_000


@runtime_checkable
class RowSource(Protocol):
    """Rows [n, d], read when asked for: an array, a database's shards, or some rows of either."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> np.ndarray:
        """Returns the rows of a slice without a step, or of ids."""
        ...


@runtime_checkable
class Index(Protocol):
    """Finds nearest rows."""

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int, /
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Returns row ids and cosine scores, best first, equal scores by ascending id.

        Raises:
          UserError: k is below 1 or above the number of rows.
        """
        ...


def make_index(database: Database, kind: str = "auto") -> Index:
    """Returns an index over a database.

    Args:
      database: what is searched.
      kind: "exact", "scann", or "auto": what is stored with the database; else exact, unless there are so many rows
        that a CPU is slow at it.

    Raises:
      UserError: an unknown kind, or ScaNN is not installed.
    """
    if kind not in KINDS:
        raise unknown("index", kind, KINDS)
    if kind == "auto":
        from rdm_jax.retrieval.scann_index import installed

        wanted = "index" in database.manifest or is_large(database)
        if wanted and not installed():
            _LOG.warning(
                "ScaNN is not installed here: %d rows of %r are searched exactly", len(database), database.name
            )
        kind = "scann" if wanted and installed() else "exact"
    if kind == "exact":
        return ExactIndex(database.rows)
    from rdm_jax.retrieval.scann_index import ScannIndex

    return ScannIndex.of(database)


def is_large(database: Database) -> bool:
    """Says whether an approximate index is worth its building: many rows, and no accelerator to compare them all."""
    return len(database) >= AUTO_SCANN_ROWS and jax.default_backend() == "cpu"


@dataclasses.dataclass(frozen=True)
class ExactIndex:
    """Compares a query with every row, chunk by chunk, each split over the devices; chunks stay there if they fit.

    Attributes:
      rows: [n, d] the rows, an array or memory-mapped shards.
      chunk_rows: how many rows at most are compared at a time, a multiple of 1024.
      device_bytes: rows stay on the device if they take no more than this as float32; else they are sent again for
        each search.
    """

    rows: RowSource
    chunk_rows: int = CHUNK
    device_bytes: int = DEVICE_BYTES

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Returns row ids [q, k] and cosine scores [q, k], best first, equal scores by ascending id."""
        check_search(self.rows.shape, queries, k)
        found = [
            rescore(self.rows, part, self._candidates(unit(part), k), k)
            for part in (queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES))
        ]
        ids = [part[0] for part in found] or [np.zeros((0, k), np.int64)]
        scores = [part[1] for part in found] or [np.zeros((0, k), np.float32)]
        return np.concatenate(ids), np.concatenate(scores)

    def _candidates(self, queries: Float32[np.ndarray, "q d"], k: int) -> Int64[np.ndarray, "q c"]:
        count = len(queries)
        padded = np.pad(queries, ((0, _round_queries(count) - count), (0, 0)))
        wanted = min(_round_up(k + MARGIN, 32), self._chunk)
        ids, scores = [], []
        for number in range(-(-len(self.rows) // self._chunk)):
            start = number * self._chunk
            rows = self._resident[number] if self._fits else self._load(number)
            found, score = _search_chunk(jnp.asarray(padded), rows, min(self._chunk, len(self.rows) - start), wanted)
            ids.append(np.asarray(found, np.int64)[:count] + start)
            scores.append(np.asarray(score)[:count])
        joined = np.concatenate(ids, axis=1)
        best = _best(joined, np.concatenate(scores, axis=1), min(k + MARGIN, len(self.rows)))
        return np.take_along_axis(joined, best, axis=1)

    @property
    def _chunk(self) -> int:
        return min(self.chunk_rows, _round_up(len(self.rows), PAD))

    @property
    def _fits(self) -> bool:
        return len(self.rows) * self.rows.shape[1] * 4 <= self.device_bytes

    @functools.cached_property
    def _resident(self) -> list[jax.Array]:
        return [self._load(number) for number in range(-(-len(self.rows) // self._chunk))]

    def _load(self, number: int) -> jax.Array:
        rows = unit(self.rows[number * self._chunk : (number + 1) * self._chunk])
        full = np.pad(rows, ((0, self._chunk - len(rows)), (0, 0)))
        mesh = local_mesh()
        return jax.device_put(full, replicated(mesh) if self._chunk % mesh.size else batch_sharding(mesh))


def check_search(shape: tuple[int, ...], queries: np.ndarray, k: int) -> None:
    """Raises UserError where k does not fit the number of rows, or queries do not fit their width."""
    if not 1 <= k <= shape[0]:
        raise UserError(f"k {k} is out of range; this database has {shape[0]} rows, give 1 to {shape[0]}")
    if queries.ndim != 2 or queries.shape[1] != shape[1]:
        raise UserError(f"queries of shape {queries.shape} do not fit rows of width {shape[1]}; use their encoder")
    if not np.isfinite(queries).all():
        raise UserError("a query is not finite; check the encoder's weights")


def unit(vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Returns the vectors in float32 at length 1; zero vectors stay zero."""
    vectors = vectors.astype(np.float32)  # a copy, which is divided in its place
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, np.where(norms > 0, norms, np.float32(1)), out=vectors)


def rescore(
    rows: RowSource, queries: Float[np.ndarray, "q d"], candidates: Int64[np.ndarray, "q c"], k: int
) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """Returns the k best of some candidates by their exact cosines, computed in float64.

    Args:
      rows: [n, d] the stored rows.
      queries: [q, d] of any length.
      candidates: [q, c] different row ids, c >= k.
      k: how many to keep.
    """
    step = max(1, RESCORED // candidates.shape[1])
    scores = np.empty(candidates.shape, np.float32)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        scores[part] = _cosines(rows[candidates[part].reshape(-1)], queries[part])
    best = _best(candidates, scores, k)
    return np.take_along_axis(candidates, best, axis=1), np.take_along_axis(scores, best, axis=1)


def _cosines(rows: np.ndarray, queries: np.ndarray) -> Float[np.ndarray, "q c"]:
    """Returns cosines of queries [q, d] and the rows of each, [q * c, d] in their order, computed in float64."""
    found = rows.astype(np.float64).reshape(len(queries), -1, queries.shape[1])
    wanted = queries.astype(np.float64)
    lengths = np.sqrt(np.einsum("qcd,qcd->qc", found, found) * np.einsum("qd,qd->q", wanted, wanted)[:, None])
    products = np.einsum("qcd,qd->qc", found, wanted)
    return products / np.where(lengths > 0, lengths, 1.0)


def _best(ids: Int64[np.ndarray, "q c"], scores: Float32[np.ndarray, "q c"], k: int) -> Int64[np.ndarray, "q k"]:
    """Returns the places of the k highest scores of each row, equal scores by ascending id."""
    return np.lexsort((ids, -scores), axis=1)[:, :k]


@functools.partial(jax.jit, static_argnames="k")
def _search_chunk(
    queries: Float[Array, "q d"], rows: Float[Array, "n d"], count: int | Int[Array, ""], k: int
) -> tuple[Int[Array, "q k"], Float[Array, "q k"]]:
    scores = jnp.dot(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
    valid = jnp.arange(rows.shape[0]) < count
    best, ids = jax.lax.top_k(jnp.where(valid[None, :], scores, -jnp.inf), k)
    return ids, best


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _round_queries(count: int) -> int:
    """Returns 1, 8, 64 or 256: few shapes, so few programs."""
    return next(size for size in (1, 8, 64, QUERIES) if count <= size)
