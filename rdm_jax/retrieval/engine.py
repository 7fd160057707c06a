"""The contract of an engine of approximate search, and the parameters that all engines share."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

# Brute force below 20,000 rows, above it a few times sqrt(n) leaves: the advice of ScaNN (docs/algorithms.md).
BRUTE_FORCE_ROWS = 20_000
SHARD_ROWS = 1_000_000
TRAINING_ROWS = 250_000
LEAST_TRAINED = 16  # rows: a quantization of 4 bits has as many values
# From this width on, four dimensions are quantized together: half the memory of two. At a million rows this takes
# ScaNN 1.3 ms instead of 1.9 ms for 99 % of the neighbors of images, and 5.0 ms instead of 4.6 ms for those of texts.
WIDE = 256


@dataclasses.dataclass(frozen=True)
class Parameters:
    """How rows are indexed and searched.

    Attributes:
      leaves: the leaves of the tree in each shard; 0 compares all quantized rows.
      searched: the leaves that a query searches.
      candidates: the smallest number of rows that are compared exactly.
      training_rows: the rows of a shard that the tree is trained on.
      anisotropic_threshold: of the quantization; ScaNN's 0.2 is for unit vectors of a few hundred dimensions.
      block: the dimensions that are quantized together.
      shard_rows: the largest number of rows in a shard.
    """

    leaves: int
    searched: int
    candidates: int = 100
    training_rows: int = TRAINING_ROWS
    anisotropic_threshold: float = 0.2
    block: int = 4
    shard_rows: int = SHARD_ROWS

    @staticmethod
    def of(count: int, width: int) -> Parameters:
        """Returns parameters with a high recall for `count` rows of a width; `tune` finds those for a target."""
        rows = min(count, SHARD_ROWS)
        if rows < BRUTE_FORCE_ROWS:
            return Parameters(leaves=0, searched=0)
        leaves = 2 * math.isqrt(rows)
        block = 4 if width >= WIDE else 2
        return Parameters(leaves, max(1, leaves // 10), training_rows=min(rows, TRAINING_ROWS), block=block)

    def has_tree(self, count: int) -> bool:
        """Returns whether a shard of `count` rows is quantized in leaves; a small one is compared as it is."""
        return self.leaves > 0 and count >= max(LEAST_TRAINED, self.leaves)


@runtime_checkable
class Engine(Protocol):
    """Quantizes unit rows, and proposes those with the largest products.

    Attributes:
      name: in `approximate_index.ENGINES`, in manifests and on the command line.
      label: its name in messages.
      advice: how it is installed.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    advice: ClassVar[str]

    def installed(self) -> bool:
        """Returns whether the engine can be imported."""
        ...

    def build(self, rows: Float32[np.ndarray, "n d"], parameters: Parameters) -> Any:
        """Returns the searcher of unit rows."""
        ...

    def save(self, searcher: Any, folder: Path) -> None:
        """Writes a searcher into an empty folder."""
        ...

    def load(self, folder: Path) -> Any:
        """Returns a searcher from its folder.

        Raises:
          UserError: the folder holds what would run as code.
          RuntimeError, ValueError, OSError: the engine's own, if the folder is damaged.
        """
        ...

    def search(
        self, searcher: Any, queries: Float32[np.ndarray, "q d"], count: int, searched: int
    ) -> tuple[Int64[np.ndarray, "q c"], Float32[np.ndarray, "q c"]]:
        """Returns the ids of `count` candidates of unit queries and their approximate products.

        Args:
          searcher: of `build` or `load`.
          queries: [q, d] unit vectors.
          count: c, at most the number of rows.
          searched: the leaves that a query searches; 0 where there is no tree.

        Returns:
          Ids out of range, or scores that are NaN, are empty places: the searched leaves had too few rows.
        """
        ...
