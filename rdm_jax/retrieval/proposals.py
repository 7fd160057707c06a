"""Queries for drawing without a prompt: rows of the database, those that training saw most often as neighbours.

https://arxiv.org/abs/2204.11824, section 3.3: p_D(x) is how often x is a neighbour of a training picture; kept to its
top m, few and typical rows make precise pictures, many rows make various ones.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int64

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.sidecar import NeighborSidecar

CHUNK = 4096

Counts = Int64[np.ndarray, " n"]


def count_neighbors(sidecar: NeighborSidecar, database: Database) -> Counts:
    """Returns how often each row of a database is a neighbour of an example, [rows].

    Raises:
      UserError: the neighbours come from another database.
    """
    sidecar.check_database(database)
    counts = np.zeros(len(database), np.int64)
    for start in range(0, len(sidecar), CHUNK):
        ids = sidecar.ids(range(start, min(start + CHUNK, len(sidecar))))
        counts += np.bincount(ids[ids >= 0], minlength=len(counts))
    return counts


def top(counts: Counts, m: float | int) -> Int64[np.ndarray, " kept"]:
    """Returns the row ids of the top m that were seen at all, the most frequent first, equal ones in their order.

    Args:
      counts: from `count_neighbors`.
      m: a share of the rows in (0, 1], rounded up, or a whole number of rows above 1.

    Raises:
      UserError: `m` is neither, or no row was a neighbour.
    """
    if not m > 0 or (m > 1 and m != int(m)):
        raise UserError(f"top-m {m} is neither a share in (0, 1] nor a whole number of rows; use 0.01, or 500")
    size = math.ceil(m * len(counts)) if m <= 1 else int(m)
    kept = np.argsort(-counts, kind="stable")[:size]
    kept = kept[counts[kept] > 0]
    if not len(kept):
        raise UserError("no row of the database is a neighbour of an example; compute neighbors for it")
    return kept


def draw(
    rows: Int64[np.ndarray, " kept"], number: int, seed: int, weights: Counts | None = None
) -> Int64[np.ndarray, " number"]:
    """Returns `number` of the rows, with repetitions; draw i depends on the seed and i alone.

    Args:
      rows: ids to draw from, as `top` gives them.
      number: how many.
      seed: of the run.
      weights: [kept] each row's share, such as its count; None draws all alike, as the released sampler does.
    """
    shares = None if weights is None else weights / weights.sum()
    return np.array([np.random.default_rng([seed, i]).choice(rows, p=shares) for i in range(number)], np.int64)
