"""Vectors of which only the direction matters."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


def unit(vectors: Float[np.ndarray, "... d"], dtype: Any = None) -> Float[np.ndarray, "... d"]:
    """Returns the vectors scaled to length 1 along the last axis; zero vectors stay zero.

    Args:
      vectors: [..., d].
      dtype: the type of the computation and of the result; that of the vectors if None.
    """
    scaled = np.array(vectors, dtype)  # a copy, divided in place
    norms = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.divide(scaled, norms, out=scaled, where=norms > 0)


def agreement(vectors: Float[np.ndarray, "n d"], references: Float[np.ndarray, "n k d"]) -> Float[np.ndarray, " n"]:
    """Returns the mean cosine of each vector with its own references."""
    return np.einsum("nd,nkd->n", unit(vectors, np.float64), unit(references, np.float64)) / references.shape[1]
