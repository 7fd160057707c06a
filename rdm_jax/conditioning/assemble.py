"""The context tokens of an image: the one function that training, figures and sampling share.

The query takes the first place and its k neighbors the others. k counts neighbors only. What an image is not
conditioned on keeps its place with weight 0, so that a batch may mix conditions and attention sees exactly the tokens
of each (`models.condition.Condition`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rdm_jax.core.vectors import unit
from rdm_jax.models.condition import Condition

NULL = ""  # no condition: a single null token


def assemble(
    conditions: str | Sequence[str],
    queries: Float[np.ndarray, "b d"],
    neighbors: Float[np.ndarray, "b k d"] | None = None,
    *,
    null: Float[np.ndarray, " d"] | None = None,
    unit_tokens: bool = False,
) -> Condition:
    """Returns the tokens [b, n, d] that images are conditioned on, with weights [b, n] where some are absent.

    Args:
      conditions: a name in `request.CONDITIONS`, or `NULL`, for all images; or a list with one for each image, whose
        result has every place and weights, so that batches of different mixtures have one shape.
      queries: the vectors of prompts, captions or query images; not read where no condition has the query.
      neighbors: the vectors of each query's neighbors, nearest first; None if no condition has neighbors.
      null: the token of no condition; zeros if None.
      unit_tokens: whether queries and neighbors are scaled to length 1. The null token never is.

    Returns:
      a condition whose n is 1 for "text" and no condition, k for "neighbors", 1 + k for "text+neighbors" and for a
      list of conditions. It has weights for a list alone.

    Raises:
      ValueError: a condition needs neighbors and there are none.
    """
    names = [conditions] * len(queries) if isinstance(conditions, str) else list(conditions)
    has_query = np.array([name in ("text", "text+neighbors") for name in names], bool)
    has_neighbors = np.array([name in ("neighbors", "text+neighbors") for name in names], bool)
    if neighbors is None:
        if has_neighbors.any():
            raise ValueError("a condition with neighbors needs their vectors")
        neighbors = np.zeros((len(queries), 0, queries.shape[-1]), np.float32)
    tokens = np.concatenate([queries[:, None], neighbors], axis=1, dtype=np.float32)
    tokens = unit(tokens) if unit_tokens else tokens
    is_null = ~(has_query | has_neighbors)
    tokens[is_null] = 0.0 if null is None else null
    weights = np.concatenate(
        [(has_query | is_null)[:, None], np.repeat(has_neighbors[:, None], neighbors.shape[1], axis=1)], axis=1
    ).astype(np.float32)
    if not isinstance(conditions, str):
        return Condition(tokens, weights)
    places = {"text+neighbors": slice(None), "neighbors": slice(1, None)}.get(conditions, slice(1))
    return Condition(tokens[:, places])
