"""Projects rows to two dimensions, for a map of a database."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.vectors import unit

METHODS = ("pca", "umap")

Project = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n 2"]]


def fit(rows: Float[np.ndarray, "n d"], method: str = "pca", seed: int = 0) -> Project:
    """Returns a function that maps rows and queries, scaled to length 1, to the plane.

    Args:
      rows: [n, d] the rows to fit, 3 or more.
      method: "pca" (the two directions of largest variance), or "umap" (https://arxiv.org/abs/1802.03426), which
        preserves neighborhoods and needs the extra "map".
      seed: the seed of UMAP.

    Raises:
      UserError: the method is unknown, there are too few rows, or UMAP is not installed.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if len(rows) < 3:
        raise UserError(f"a map needs 3 rows or more, and there are {len(rows)}")
    return _pca(unit(rows, np.float32)) if method == "pca" else _umap(unit(rows, np.float32), seed)


def _pca(rows: np.ndarray) -> Project:
    mean = rows.mean(axis=0)
    _, _, axes = np.linalg.svd(rows - mean, full_matrices=False)
    # The sign of an axis is arbitrary. Its largest entry is made positive, so that the same rows give the same map.
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])
    plane = (axes[:2] * signs[:, None]).T
    return lambda vectors: (unit(vectors, np.float32) - mean) @ plane


def _umap(rows: np.ndarray, seed: int) -> Project:
    try:
        import umap  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("UMAP is not installed; pip install rdm_jax[map], or use the method 'pca'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP warns that a seed limits it to one core
        model: Any = umap.UMAP(n_neighbors=min(15, len(rows) - 1), metric="cosine", random_state=seed).fit(rows)
    return lambda vectors: np.asarray(model.transform(unit(vectors, np.float32)), np.float32)
