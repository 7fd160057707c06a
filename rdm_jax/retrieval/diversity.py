"""Neighbors that differ from each other: maximal marginal relevance, and a threshold for duplicates."""

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
    """Returns the places of k candidates that are near to the query and far from each other, in order of selection.

    Each step selects the candidate with the largest (1 - diversity) * score - diversity * (greatest cosine to a
    selected candidate): maximal marginal relevance (Carbonell and Goldstein 1998, with lambda = 1 - diversity). Fewer
    than k places are returned if too few candidates are different enough.

    Args:
      scores: [c] cosines to the query.
      embeddings: [c, d] of the candidates, of any length.
      k: the number of candidates to select.
      diversity: in [0, 1]; 0 selects by score alone.
      duplicates: omits candidates with at least this cosine to a selected one; omits none if None.
      origins: [c] the name of each candidate's database.
      quotas: the largest number of candidates from each database; no limit if None.
    """
    left = dict(quotas or {})
    vectors = unit(embeddings, np.float32)
    nearest = np.full(len(scores), -1.0, np.float32)
    free = np.ones(len(scores), bool)
    selected: list[int] = []
    while len(selected) < k and free.any():
        redundancy = nearest if selected else np.zeros_like(nearest)
        gain = np.where(free, (1 - diversity) * scores - diversity * redundancy, -np.inf)
        best = int(np.argmax(gain))
        selected.append(best)
        nearest = np.maximum(nearest, vectors @ vectors[best])
        free[best] = False
        if duplicates is not None:
            free &= nearest < min(duplicates, SAME)
        if origins is not None and quotas is not None:
            left[origins[best]] -= 1
            if not left[origins[best]]:
                free &= origins != origins[best]
    return np.array(selected, np.int64)
