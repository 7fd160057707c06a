"""Neighbours beside the examples that they belong to, in a grain pipeline."""

from __future__ import annotations

import dataclasses
from typing import Any

import grain
import numpy as np
from jaxtyping import Int64

from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.retrieval.sidecar import NeighborSidecar


def numbered(examples: grain.MapDataset, source: ImageSource, sidecar: NeighborSidecar) -> grain.MapDataset:
    """Returns pairs (number, example), to be shuffled, sliced, batched and then given to `Neighbors`.

    Args:
      examples: of the source, number i at place i.
      source: what the examples are from.
      sidecar: their neighbours.

    Raises:
      UserError: the neighbours are those of another data set, version or split, or the examples are not all of the
        source.
    """
    sidecar.check(source)
    count = len(sidecar)
    if len(examples) != count:
        raise UserError(f"{len(examples)} examples of {count}; number all of the source, and choose among the pairs")
    return examples.map_with_index(lambda index, example: (np.int64(index % count), example))


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """Reads the neighbours of a whole batch of numbered examples together.

    Reading them one by one, before the batch is made, takes three times as long where the records hold ids alone.

    Attributes:
      sidecar: the neighbours; opened with their database if the records hold ids alone.
    """

    sidecar: NeighborSidecar

    def __call__(self, batch: tuple[Int64[np.ndarray, " n"], Any]) -> tuple[Any, dict[str, np.ndarray]]:
        """Returns (examples, neighbours): a dictionary of ids and scores [n, k] and embeddings [n, k, d] (float16)."""
        numbers, examples = batch
        ids, scores, embeddings = self.sidecar.read(numbers)
        return examples, {"ids": ids, "scores": scores, "embeddings": embeddings}
