"""Neighbours beside the examples that they belong to, as a grain data set."""

from __future__ import annotations

import dataclasses
from typing import Any

import grain
import numpy as np

from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import Source
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.sidecar import NeighborSidecar


def join(examples: grain.MapDataset, source: Source, sidecar: NeighborSidecar, database: Database) -> grain.MapDataset:
    """Returns pairs (example, its neighbours) in the order of the examples, to be shuffled, sliced and batched.

    The neighbours are a dictionary of ids [k], scores [k] and embeddings [k, d] in float16.

    Args:
      examples: of the source, number i at place i.
      source: what the examples are from.
      sidecar: their neighbours.
      database: where the neighbours are from.

    Raises:
      UserError: the neighbours are those of another data set, version or split, or of another database; or the examples
        are not all of the source.
    """
    sidecar.check(source, database)
    if len(examples) != len(sidecar):
        raise UserError(
            f"{len(examples)} examples of {len(sidecar)}; join all of the source, and choose among the pairs"
        )
    return examples.map_with_index(_Pair(sidecar))


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Puts the neighbours of an example beside it; grain asks for one at a time, of a batch too."""

    sidecar: NeighborSidecar

    def __call__(self, index: int, example: Any) -> tuple[Any, dict[str, np.ndarray]]:
        ids, scores, embeddings = self.sidecar[index % len(self.sidecar)]
        return example, {"ids": ids, "scores": scores, "embeddings": embeddings}
