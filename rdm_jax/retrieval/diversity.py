"""Neighbours that differ from each other: maximal marginal relevance, and a threshold for duplicates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped

from rdm_jax.core.vectors import unit
from rdm_jax.retrieval.duplicates import SAME


def diverse(
    scores: Float32[np.ndarray, " c"],
    embeddings: Float[np.ndarray, "c d"],
    k: int,
    diversity: float = 0.0,
    duplicates: float | None = None,
    origins: Shaped[np.ndarray, " c"] | None = None,
    quotas: Mapping[str, int] | None = None,
) -> Int64[np.ndarray, " kept"]:
    """Returns the places of k candidates, chosen one by one: near to the query, and far from those chosen before.

    Each step takes the largest (1 - diversity) * score - diversity * (greatest cosine to a chosen one): maximal
    marginal relevance (Carbonell and Goldstein 1998, with lambda = 1 - diversity). Fewer than k come back where too few
    candidates are different enough.

    Args:
      scores: cosines to the query.
      embeddings: of the candidates, of any length.
      k: how many to choose.
      diversity: in [0, 1]; 0 is by score alone.
      duplicates: candidates with at least this cosine to a chosen one are left out; None leaves out none.
      origins: the name of the database that each candidate comes from.
      quotas: how many may come from each database at most; None takes any number.
    """
    left = dict(quotas or {})
    vectors = unit(embeddings, np.float32)
    nearest = np.full(len(scores), -1.0, np.float32)
    free = np.ones(len(scores), bool)
    chosen: list[int] = []
    while len(chosen) < k and free.any():
        redundancy = nearest if chosen else np.zeros_like(nearest)
        gain = np.where(free, (1 - diversity) * scores - diversity * redundancy, -np.inf)
        best = int(np.argmax(gain))
        chosen.append(best)
        nearest = np.maximum(nearest, vectors @ vectors[best])
        free[best] = False
        if duplicates is not None:
            free &= nearest < min(duplicates, SAME)
        if origins is not None and quotas is not None:
            left[origins[best]] -= 1
            if not left[origins[best]]:
                free &= origins != origins[best]
    return np.array(chosen, np.int64)
