"""Search among some rows of a database alone."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.index import Index, check_search
from rdm_jax.retrieval.rows import RowReader, SelectedRows

# Up to this share of the rows are compared one by one: the index would find too few of them among its nearest.
FEW = 0.1


@dataclasses.dataclass(frozen=True)
class SelectedIndex:
    """An index over chosen rows, whose ids stay those of the whole.

    Attributes:
      rows: [n, d] all rows.
      index: over all of them.
      admitted: [n] which may be found.
    """

    rows: RowReader
    index: Index
    admitted: Bool[np.ndarray, " n"]

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Returns row ids [q, k] and cosine scores [q, k], best first, equal scores by ascending id.

        Raises:
          UserError: k is below 1 or above the number of chosen rows.
        """
        check_search((len(self._ids), self.rows.shape[1]), queries, k)
        if len(self._ids) <= FEW * len(self.rows):
            found, scores = self._exact.search(queries, k)
            return self._ids[found], scores
        wanted = min(2 * k + 8, len(self.rows))
        while True:
            ids, scores = self.index.search(queries, wanted)
            kept = self.admitted[ids]
            if (kept.sum(axis=1) >= k).all():
                first = np.argsort(~kept, axis=1, kind="stable")[:, :k]
                return np.take_along_axis(ids, first, axis=1), np.take_along_axis(scores, first, axis=1)
            wanted = min(4 * wanted, len(self.rows))

    @functools.cached_property
    def _ids(self) -> np.ndarray:
        return np.flatnonzero(self.admitted)

    @functools.cached_property
    def _exact(self) -> ExactIndex:
        return ExactIndex(SelectedRows(self.rows, self._ids))
