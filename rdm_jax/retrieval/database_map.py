"""A map of a database: its images at the places of their embeddings, projected to two dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from rdm_jax.core.scatter import scatter
from rdm_jax.retrieval import projection
from rdm_jax.retrieval.database import Database


def plot_map(
    database: Database,
    rows: Int[np.ndarray, " n"],
    title: str,
    neighbors: Sequence[int] | Int[np.ndarray, " k"] = (),
    query: Float[np.ndarray, "1 d"] | None = None,
    method: str = "pca",
    seed: int = 0,
) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """Returns the map of some rows, and the number of rows on it.

    Args:
      database: of the rows.
      rows: ids, in ascending order.
      title: above the map.
      neighbors: ids of the rows that a query retrieved, which are shown whether or not they are among `rows`.
      query: the query's vector; None for none.
      method: a name in `projection.METHODS`.
      seed: of the method.

    Raises:
      UserError: the method is unknown or not installed, or there are fewer than 3 rows.
    """
    found = np.asarray(neighbors, np.int64)
    shown = np.concatenate([found, np.setdiff1d(rows, found)])
    project = projection.fit(database.embeddings(shown), method, seed)
    image = scatter(
        project(database.embeddings(shown)),
        database.thumbnails(shown),
        title=title,
        query=None if query is None else project(query)[0],
        neighbors=list(range(len(found))),
    )
    return image, len(shown)
