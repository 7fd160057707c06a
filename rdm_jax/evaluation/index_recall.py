"""How many of the exact nearest neighbors the index of a database finds for the queries of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.indexing import make_index

QUERIES = 256


def index_recall(database: Database, queries: Float[np.ndarray, "q d"], k: int) -> dict[str, Any]:
    """Returns the kind of the index that retrieval uses and its recall at k, as JSON values.

    Args:
      database: that is searched.
      queries: of the run; `QUERIES` of them, evenly spread, are searched exactly as well.
      k: the number of neighbors; that of the rows where there are fewer.
    """
    index, k = make_index(database), min(k, len(database))
    record = {"index": type(index).__name__, "k": k}
    if isinstance(index, ExactIndex):
        return {**record, "recall": 1.0, "queries": 0}
    rows = np.unique(np.linspace(0, len(queries) - 1, min(QUERIES, len(queries))).astype(int))
    found, _ = index.search(queries[rows], k)
    exact, _ = ExactIndex(database.rows).search(queries[rows], k)
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    return {**record, "recall": float(np.mean(hits)) / k, "queries": len(rows)}
