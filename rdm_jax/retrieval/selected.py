"""Searches some rows of a database."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.index import Index, check_search
from rdm_jax.retrieval.rows import RowReader, SelectedRows

# Up to this fraction of the rows, all selected rows are compared: too few of them would be among the index's nearest.
FEW = 0.1


@dataclasses.dataclass(frozen=True)
class SelectedIndex:
    """An index over selected rows, with their ids in the full database.

    Attributes:
      rows: [n, d] all rows.
      index: the index over all rows.
      admitted: [n] the mask of the selected rows.
    """

    rows: RowReader
    index: Index
    admitted: Bool[np.ndarray, " n"]

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Returns row ids [q, k] and cosine scores [q, k], best first, equal scores by ascending id.

        Raises:
          UserError: k is below 1 or above the number of selected rows.
        """
        check_search((len(self._ids), self.rows.shape[1]), queries, k)
        if len(self._ids) <= FEW * len(self.rows):
            places, scores = self._exact.search(queries, k)
            return self._ids[places], scores
        candidates = min(2 * k + 8, len(self.rows))
        while True:
            ids, scores = self.index.search(queries, candidates)
            kept = self.admitted[ids]
            if (kept.sum(axis=1) >= k).all():
                first = np.argsort(~kept, axis=1, kind="stable")[:, :k]
                return np.take_along_axis(ids, first, axis=1), np.take_along_axis(scores, first, axis=1)
            candidates = min(4 * candidates, len(self.rows))

    @functools.cached_property
    def _ids(self) -> np.ndarray:
        return np.flatnonzero(self.admitted)

    @functools.cached_property
    def _exact(self) -> ExactIndex:
        return ExactIndex(SelectedRows(self.rows, self._ids))
