"""Joins neighbors to the examples that they belong to, in a grain pipeline."""

from __future__ import annotations

import dataclasses
from typing import Any

import grain
import numpy as np
from jaxtyping import Int64

from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.retrieval.sidecar import NeighborSidecar


def number_examples(examples: grain.MapDataset, source: ImageSource, sidecar: NeighborSidecar) -> grain.MapDataset:
    """Returns pairs (number, example) to shuffle, slice, batch and then pass to `JoinNeighbors`.

    Args:
      examples: all examples of the source, in order.
      source: the source of the examples.
      sidecar: their neighbors.

    Raises:
      UserError: the neighbors belong to another data set, version or split, or there are not as many examples as the
        source has.
    """
    sidecar.check(source)
    count = len(sidecar)
    if len(examples) != count:
        raise UserError(f"{len(examples)} examples of {count}; number all examples of the source, then select pairs")
    return examples.map_with_index(lambda index, example: (np.int64(index % count), example))


@dataclasses.dataclass(frozen=True)
class JoinNeighbors:
    """Reads the neighbors of a whole batch of numbered examples at once.

    If the records have only ids, reading them one by one before batching takes three times as long.

    Attributes:
      sidecar: the neighbors; opened with their database if the records have only ids.
    """

    sidecar: NeighborSidecar

    def __call__(self, batch: tuple[Int64[np.ndarray, " n"], Any]) -> tuple[Any, dict[str, np.ndarray]]:
        """Returns (examples, neighbors): a dictionary of ids and scores [n, k] and embeddings [n, k, d] (float16)."""
        numbers, examples = batch
        ids, scores, embeddings = self.sidecar.read(numbers)
        return examples, {"ids": ids, "scores": scores, "embeddings": embeddings}
