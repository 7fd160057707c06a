"""Vectors whose direction counts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def unit(vectors: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
    """Returns vectors scaled to length 1 along the last axis, in their own type; those of zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
