"""The contract of an index: nearest rows by cosine.

Every index proposes candidates, and `rescore` ranks them exactly. Scores and order do not depend on the index that
proposed the rows.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.rows import RowReader

# Candidates beyond k, so that ties and rounding at the boundary do not change the result.
MARGIN = 8
# The number of rows that are compared exactly at a time: they fit into the processor's cache.
RESCORED = 2048


@runtime_checkable
class Index(Protocol):
    """Finds the nearest rows of queries."""

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int, /
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Returns row ids and cosine scores, best first, equal scores by ascending id.

        Raises:
          UserError: k is below 1 or above the number of rows.
        """
        ...


def check_search(shape: tuple[int, ...], queries: np.ndarray, k: int) -> None:
    """Raises UserError if k does not fit the number of rows, or the queries do not fit their width."""
    if not 1 <= k <= shape[0]:
        raise UserError(f"k {k} is out of range; this database has {shape[0]} rows, give 1 to {shape[0]}")
    if queries.ndim != 2 or queries.shape[1] != shape[1]:
        raise UserError(f"queries of shape {queries.shape} do not fit rows of width {shape[1]}; use their encoder")
    if not np.isfinite(queries).all():
        raise UserError("a query is not finite; check the encoder's weights")


def rescore(
    rows: RowReader, queries: Float[np.ndarray, "q d"], candidates: Int64[np.ndarray, "q c"], k: int
) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """Returns the ids and scores of the k best candidates by exact cosines, computed in float64.

    Args:
      rows: [n, d] the stored rows.
      queries: [q, d] of any length.
      candidates: [q, c] distinct row ids, c >= k.
      k: the number of rows to keep.
    """
    step = max(1, RESCORED // candidates.shape[1])
    scores = np.empty(candidates.shape, np.float32)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        scores[part] = _cosines(rows[candidates[part].reshape(-1)], queries[part])
    best = best_places(candidates, scores, k)
    return np.take_along_axis(candidates, best, axis=1), np.take_along_axis(scores, best, axis=1)


def best_places(ids: Int64[np.ndarray, "q c"], scores: Float32[np.ndarray, "q c"], k: int) -> Int64[np.ndarray, "q k"]:
    """Returns the places of the k highest scores of each query, equal scores by ascending id."""
    return np.lexsort((ids, -scores), axis=1)[:, :k]


def _cosines(rows: np.ndarray, queries: np.ndarray) -> Float[np.ndarray, "q c"]:
    """Returns cosines of queries [q, d] and the rows of each, [q * c, d] in order, computed in float64."""
    candidates = rows.astype(np.float64).reshape(len(queries), -1, queries.shape[1])
    queries = queries.astype(np.float64)
    squares = np.einsum("qcd,qcd->qc", candidates, candidates) * np.einsum("qd,qd->q", queries, queries)[:, None]
    products = np.einsum("qcd,qd->qc", candidates, queries)
    lengths = np.sqrt(squares)
    return products / np.where(lengths > 0, lengths, 1.0)
