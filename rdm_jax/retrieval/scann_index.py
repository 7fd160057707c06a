"""ScaNN (https://arxiv.org/abs/1908.10396) behind the contract of an index; the one file that imports it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database, Rows
from rdm_jax.retrieval.index import MARGIN, check_search, rescore, unit

FOLDER = Path("index") / "scann"
# ScaNN's own advice (docs/algorithms.md): brute force below 20,000 rows, above it about sqrt(n) leaves.
BRUTE_FORCE_ROWS = 20_000
SEARCHED_SHARE = 0.1
REORDER = 4


def installed() -> bool:
    """Says whether ScaNN can be imported."""
    return importlib.util.find_spec("scann") is not None


@dataclasses.dataclass(frozen=True)
class ScannIndex:
    """Candidates from ScaNN, re-scored exactly.

    Attributes:
      rows: [n, d] the rows that the searcher was made of.
      searcher: ScaNN's own object.
    """

    rows: Rows | np.ndarray
    searcher: Any

    @staticmethod
    def build(rows: Rows | np.ndarray) -> ScannIndex:
        """Makes an index; needs about 7 bytes of memory for each stored float16 while it works.

        Raises:
          UserError: ScaNN is not installed.
        """
        count = len(rows)
        builder = _scann().builder(unit(rows[:]), min(count, 10), "dot_product")
        if count < BRUTE_FORCE_ROWS:
            return ScannIndex(rows, builder.score_brute_force().build())
        leaves = 2 * math.isqrt(count)
        tree = builder.tree(leaves, max(1, int(leaves * SEARCHED_SHARE)), training_sample_size=min(count, 250_000))
        return ScannIndex(rows, tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build())

    @staticmethod
    def of(database: Database) -> ScannIndex:
        """Loads the index stored beside a database's rows, or makes one in memory where there is none."""
        folder = database.path / FOLDER
        return ScannIndex.open(folder, database) if folder.is_dir() else ScannIndex.build(database.rows)

    @staticmethod
    def open(folder: Path, database: Database) -> ScannIndex:
        """Loads a saved index.

        Raises:
          UserError: ScaNN is not installed, or the index is damaged or was made of another database.
        """
        try:
            digest = json.loads((folder / "database.json").read_text())["digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"damaged index {folder}: {error}; remove the folder and make it again") from error
        if digest != database.digest:
            raise UserError(f"index {folder} was made of another database; remove the folder and make it again")
        try:
            return ScannIndex(database.rows, _scann().load_searcher(str(folder)))
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"damaged index {folder}: {error}; remove the folder and make it again") from error

    def save(self, folder: Path, database: Database) -> None:
        """Writes the index to a new folder, whole or not at all; `open` takes it for this database alone."""
        with files.new_directory(folder) as temporary:
            self.searcher.serialize(str(temporary), relative_path=True)
            files.write_json(temporary / "database.json", {"digest": database.digest})

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Returns row ids [q, k] and exact cosine scores [q, k], best first, equal scores by ascending id.

        Raises:
          UserError: k is below 1 or above the number of rows.
        """
        check_search(self.rows.shape, queries, k)
        if not len(queries):
            return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
        count = min(len(self.rows), k + MARGIN if len(self.rows) < BRUTE_FORCE_ROWS else max(100, REORDER * k))
        ids, _ = self.searcher.search_batched(
            unit(queries), final_num_neighbors=count, pre_reorder_num_neighbors=REORDER * count
        )
        return rescore(self.rows, queries, _filled(np.asarray(ids, np.int64), len(self.rows), k), k)


def _filled(ids: Int64[np.ndarray, "q c"], rows: int, k: int) -> Int64[np.ndarray, "q c"]:
    """Replaces what ScaNN leaves empty, where the searched leaves hold too few rows, by rows not yet among them."""
    ids = ids.copy()
    for row in ids:
        empty = (row < 0) | (row >= rows)
        if empty.any():
            row[empty] = np.setdiff1d(np.arange(min(rows, len(row) + k)), row[~empty])[: empty.sum()]
    return ids


def _scann() -> Any:
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise UserError(
            "ScaNN is not installed (there are wheels for x86-64 Linux); pip install scann, or take the index 'exact'"
        ) from error
    return scann_ops_pybind
