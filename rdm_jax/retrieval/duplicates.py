"""Near-duplicates: rows whose cosine to an earlier row is at least a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.index import Index
from rdm_jax.retrieval.indexing import make_index

# From this cosine on two vectors are the same: the cosine of a float16 vector with itself is 1 up to rounding.
SAME = 1.0 - 1e-6
QUERIES = 256
FIRST_NEIGHBORS = 16

RowMask = Bool[np.ndarray, " _"]


def check_threshold(duplicates: float | None) -> None:
    """Raises UserError if the cosine from which rows are duplicates is out of range."""
    if duplicates is not None and not 0 < duplicates <= 1:
        raise UserError(f"duplicates {duplicates} is not a cosine in (0, 1]; try 0.97")


def distinct_rows(databases: Sequence[Database], threshold: float, mask: RowMask | None = None) -> list[RowMask]:
    """Returns a mask per database without the rows that are near to an earlier kept row.

    The result is exact if the index is exact.

    Args:
      databases: searched as one database, in this order.
      threshold: rows with at least this cosine are duplicates.
      mask: for a single database, the rows to consider; all if None.
    """
    indexes = [make_index(database) for database in databases]
    ends = np.cumsum([len(database) for database in databases])
    kept = np.ones(int(ends[-1]), bool) if mask is None else mask.copy()
    for number, database in enumerate(databases):
        first = int(ends[number]) - len(database)
        for start in range(0, len(database), QUERIES):
            queries = database.rows[start : start + QUERIES]
            near = [
                (int(ends[i]) - len(databases[i]), _near_rows(indexes[i], databases[i], queries, threshold))
                for i in range(number + 1)
            ]
            for place in range(len(queries)):
                row = first + start + place
                neighbors = np.concatenate([offset + rows[place] for offset, rows in near])
                kept[row] &= not kept[neighbors[neighbors < row]].any()
    return [kept[int(end) - len(database) : int(end)] for end, database in zip(ends, databases, strict=True)]


def _near_rows(index: Index, database: Database, queries: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Returns all rows of a database with at least this cosine to each query."""
    rows: list[np.ndarray] = [np.zeros(0, np.int64)] * len(queries)
    open_ = np.arange(len(queries))
    k = min(FIRST_NEIGHBORS, len(database))
    while len(open_):
        ids, scores = index.search(queries[open_], k)
        for place, row_ids, row_scores in zip(open_, ids, scores, strict=True):
            rows[place] = row_ids[row_scores >= threshold]
        # If even the last neighbor is near enough, there may be more of them.
        open_ = open_[scores[:, -1] >= threshold] if k < len(database) else open_[:0]
        k = min(4 * k, len(database))
    return rows
