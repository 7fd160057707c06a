"""Rows in two dimensions, for a map of a database."""

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
    """Returns what maps rows, and queries among them, to the plane; all at length 1.

    Args:
      rows: what the map is learned from, 3 or more.
      method: "pca" (the two directions of the greatest variance), or "umap" (https://arxiv.org/abs/1802.03426), which
        keeps neighbourhoods together and needs the extra "map".
      seed: of UMAP.

    Raises:
      UserError: an unknown method, too few rows, or UMAP is not installed.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if len(rows) < 3:
        raise UserError(f"a map needs 3 rows or more, and there are {len(rows)}")
    return _pca(unit(rows, np.float32)) if method == "pca" else _umap(unit(rows, np.float32), seed)


def _pca(rows: np.ndarray) -> Project:
    mean = rows.mean(axis=0)
    _, _, axes = np.linalg.svd(rows - mean, full_matrices=False)
    # The sign of an axis is arbitrary: its largest entry is made positive, so that the same rows give the same map.
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])
    plane = (axes[:2] * signs[:, None]).T
    return lambda vectors: (unit(vectors, np.float32) - mean) @ plane


def _umap(rows: np.ndarray, seed: int) -> Project:
    try:
        import umap  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("UMAP is not installed; pip install rdm_jax[map], or take the method 'pca'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed makes it use one core
        model: Any = umap.UMAP(n_neighbors=min(15, len(rows) - 1), metric="cosine", random_state=seed).fit(rows)
    return lambda vectors: np.asarray(model.transform(unit(vectors, np.float32)), np.float32)
