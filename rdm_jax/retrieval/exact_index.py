"""Exact search in JAX: every query is compared with every row."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int64

from rdm_jax.core.mesh import batch_sharding, local_mesh, replicated
from rdm_jax.core.vectors import unit
from rdm_jax.retrieval.index import MARGIN, best_places, check_search, rescore
from rdm_jax.retrieval.rows import RowReader

# Rows are padded to a multiple of PAD and searched in chunks of at most CHUNK rows, so that databases of similar size
# share a compiled program.
PAD = 2048
CHUNK = 2**17
QUERIES = 256
DEVICE_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class ExactIndex:
    """Compares queries with all rows, chunk by chunk; each chunk is sharded over the devices of this process.

    Attributes:
      rows: [n, d] an array or memory-mapped shards.
      chunk_rows: the largest number of rows that are compared at a time, a multiple of 1024.
      device_bytes: rows stay on the device if they need at most this many bytes as float32; otherwise every search
        transfers them again.
    """

    rows: RowReader
    chunk_rows: int = CHUNK
    device_bytes: int = DEVICE_BYTES

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Returns row ids [q, k] and cosine scores [q, k], best first, equal scores by ascending id."""
        check_search(self.rows.shape, queries, k)
        results = [
            rescore(self.rows, part, self._candidates(unit(part, np.float32), k), k)
            for part in (queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES))
        ]
        ids = [part[0] for part in results] or [np.zeros((0, k), np.int64)]
        scores = [part[1] for part in results] or [np.zeros((0, k), np.float32)]
        return np.concatenate(ids), np.concatenate(scores)

    def _candidates(self, queries: Float32[np.ndarray, "q d"], k: int) -> Int64[np.ndarray, "q c"]:
        count = len(queries)
        padded = np.pad(queries, [(0, _round_queries(count) - count), (0, 0)])
        candidates = min(_round_up(k + MARGIN, 32), self._chunk)
        ids, scores = [], []
        for number in range(-(-len(self.rows) // self._chunk)):
            start = number * self._chunk
            rows = self._resident[number] if self._fits else self._load(number)
            valid = min(self._chunk, len(self.rows) - start)
            chunk_ids, chunk_scores = _search_chunk(jnp.asarray(padded), rows, valid, candidates)
            ids.append(np.asarray(chunk_ids, np.int64)[:count] + start)
            scores.append(np.asarray(chunk_scores)[:count])
        joined = np.concatenate(ids, axis=1)
        best = best_places(joined, np.concatenate(scores, axis=1), min(k + MARGIN, len(self.rows)))
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
        rows = unit(self.rows[number * self._chunk : (number + 1) * self._chunk], np.float32)
        padded = np.pad(rows, [(0, self._chunk - len(rows)), (0, 0)])
        mesh = local_mesh()
        return jax.device_put(padded, replicated(mesh) if self._chunk % mesh.size else batch_sharding(mesh))


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
    """Returns 1, 8, 64 or 256: few shapes, and so few compiled programs."""
    return next(size for size in (1, 8, 64, QUERIES) if count <= size)
