"""Neighbours beside the examples that they belong to, as a grain data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from rdm_jax.data.sources import Source
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.sidecar import NeighborSidecar


def join(examples: grain.MapDataset, source: Source, sidecar: NeighborSidecar, database: Database) -> grain.MapDataset:
    """Returns pairs (example, its neighbours) in the order of the examples, to be shuffled, sliced and batched.

    The neighbours are a dictionary of ids [k], scores [k] and embeddings [k, d] in float16. Batches read their records
    together, file by file.

    Args:
      examples: of the source, number i at place i.
      source: what the examples are from.
      sidecar: their neighbours.
      database: where the neighbours are from.

    Raises:
      UserError: the neighbours are those of another data set, version or split, or of another database.
    """
    sidecar.check(source, database)
    return grain.experimental.ZipMapDataset([examples, grain.MapDataset.source(_Records(sidecar))])


class _Records:
    """The records of a sidecar as a source of grain's, which asks for those of a batch by `_getitems`."""

    def __init__(self, sidecar: NeighborSidecar) -> None:
        self._sidecar = sidecar

    def __len__(self) -> int:
        return len(self._sidecar)

    def __getitem__(self, index: Any) -> dict[str, np.ndarray]:
        return self._getitems([int(index)])[0]

    def _getitems(self, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
        ids, scores, embeddings = self._sidecar.read(indices)
        return [{"ids": ids[i], "scores": scores[i], "embeddings": embeddings[i]} for i in range(len(indices))]
