"""Queries for sampling without a prompt: rows that are frequent neighbors of training images.

The proposal distribution p_D(x) of https://arxiv.org/abs/2204.11824, section 3.3, is the frequency of x among the
neighbors of training images. It is truncated to its top m: few, typical rows give high precision, many rows give
diversity.
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
    """Returns the number of examples that each row of a database is a neighbor of, [rows].

    Raises:
      UserError: the neighbors come from another database.
    """
    sidecar.check_database(database)
    counts = np.zeros(len(database), np.int64)
    for start in range(0, len(sidecar), CHUNK):
        ids = sidecar.ids(range(start, min(start + CHUNK, len(sidecar))))
        counts += np.bincount(ids[ids >= 0], minlength=len(counts))
    return counts


def top(counts: Counts, m: float | int) -> Int64[np.ndarray, " kept"]:
    """Returns the ids of the top m rows with a count above 0, most frequent first, equal counts by ascending id.

    Args:
      counts: from `count_neighbors`.
      m: a fraction of the rows in (0, 1], rounded up, or a whole number of rows above 1.

    Raises:
      UserError: `m` is neither, or no row is a neighbor.
    """
    if not m > 0 or (m > 1 and m != int(m)):
        raise UserError(f"top-m {m} is neither a fraction in (0, 1] nor a whole number of rows; use 0.01, or 500")
    size = math.ceil(m * len(counts)) if m <= 1 else int(m)
    kept = np.argsort(-counts, kind="stable")[:size]
    kept = kept[counts[kept] > 0]
    if not len(kept):
        raise UserError("no row of the database is a neighbor of an example; compute neighbors for it")
    return kept


def sample(
    rows: Int64[np.ndarray, " kept"], number: int, seed: int, weights: Counts | None = None
) -> Int64[np.ndarray, " number"]:
    """Returns `number` rows, sampled with replacement; sample i depends on the seed and i alone.

    Args:
      rows: [kept] the ids to sample from, as returned by `top`.
      number: the number of samples.
      seed: the seed of the run.
      weights: [kept] proportional to the probabilities, such as counts; uniform if None, as in the released sampler.
    """
    probabilities = None if weights is None else weights / weights.sum()
    return np.array([np.random.default_rng([seed, i]).choice(rows, p=probabilities) for i in range(number)], np.int64)
