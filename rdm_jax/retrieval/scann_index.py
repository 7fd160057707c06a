"""The approximate index ScaNN (https://arxiv.org/abs/1908.10396); the one file that imports it.

Rows are quantized in shards. The rows themselves stay on disk, so an index needs about an eighth of their size in
float16, whatever the size of the database. Each shard proposes its best candidates by the quantized scores; the best
candidates of all shards are compared exactly.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
import os
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from rdm_jax.core import files, text
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.core.vectors import unit
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.index import MARGIN, check_search, rescore
from rdm_jax.retrieval.manifest import write_index_record
from rdm_jax.retrieval.rows import RowReader

FOLDER = "index"
# ScaNN's own advice (docs/algorithms.md): brute force below 20,000 rows, above it a few times sqrt(n) leaves.
BRUTE_FORCE_ROWS = 20_000
SHARD_ROWS = 1_000_000
TRAINING_ROWS = 250_000
# From this width on, four dimensions are quantized together: half the memory of two. At a million rows this takes
# 1.3 ms instead of 1.9 ms for 99 % of the neighbors of images, and 5.0 ms instead of 4.6 ms for those of texts.
WIDE = 256
# From this number of queries on, several threads search.
PARALLEL_QUERIES = 16
PICKLE = "scann_docids.pkl"

_LOG = logging.getLogger(__name__)


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


def installed() -> bool:
    """Returns whether ScaNN can be imported."""
    return importlib.util.find_spec("scann") is not None


@dataclasses.dataclass(frozen=True)
class ScannIndex:
    """Candidates from ScaNN, compared exactly.

    Attributes:
      rows: [n, d] the rows that are indexed.
      searchers: ScaNN's searchers, one for each shard.
      parameters: how they were built and are searched.
    """

    rows: RowReader
    searchers: Sequence[Any]
    parameters: Parameters

    @staticmethod
    def build(
        rows: RowReader, parameters: Parameters | None = None, progress: ProgressCallback | None = None
    ) -> ScannIndex:
        """Builds an index; this needs about three times the memory of one shard as float32.

        Args:
          rows: [n, d] the rows to index.
          parameters: chosen from the number of rows if None.
          progress: called with (rows done, rows in all).

        Raises:
          UserError: ScaNN is not installed.
        """
        parameters = parameters or Parameters.of(*rows.shape)
        searchers = []
        for start in range(0, len(rows), parameters.shard_rows):
            shard = rows[start : start + parameters.shard_rows]
            searchers.append(_searcher(unit(shard, np.float32), parameters))
            if progress:
                progress(start + len(shard), len(rows))
        return ScannIndex(rows, searchers, parameters)

    @staticmethod
    def of(database: Database) -> ScannIndex:
        """Loads the index that is stored beside a database's rows, or builds one in memory if there is none."""
        if "index" in database.manifest:
            return ScannIndex.open(database)
        if len(database) >= BRUTE_FORCE_ROWS:
            _LOG.warning(
                "database %r has no index; one is built in memory; store it with rdm database tune", database.name
            )
        return ScannIndex.build(database.rows)

    @staticmethod
    def open(database: Database) -> ScannIndex:
        """Loads a database's stored index.

        Raises:
          UserError: ScaNN is not installed, or the index is damaged or belongs to other rows.
        """
        record = database.manifest["index"]
        if record["digest"] != database.digest:
            raise UserError(
                f"the index of database {database.name!r} belongs to other rows; make it with rdm database tune"
            )
        folder = database.path / FOLDER
        # ScaNN would execute the contents of its pickle of names. The indexes that this package writes have none.
        if any((folder / name / PICKLE).exists() for name in record["shards"]):
            raise UserError(
                f"index {folder} contains a pickle, which is not opened; make it again with rdm database tune"
            )
        try:
            searchers = [_scann().load_searcher(str(folder / name)) for name in record["shards"]]
        except (RuntimeError, ValueError, OSError) as error:
            reason = (text.lines(str(error)) or [type(error).__name__])[0]
            raise UserError(f"damaged index {folder}: {reason}; make it again with rdm database tune") from error
        return ScannIndex(database.rows, searchers, Parameters(**record["parameters"]))

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
        candidates = min(len(self.rows), max(self.parameters.candidates, 2 * k + MARGIN))
        ids, scores = self._proposals(unit(queries, np.float32), candidates)
        if ids.shape[1] > candidates:
            best = np.argpartition(-scores, candidates - 1, axis=1)[:, :candidates]
            ids = np.take_along_axis(ids, best, axis=1)
        return rescore(self.rows, queries, _fill_empty(ids, len(self.rows), k), k)

    def _proposals(self, queries: np.ndarray, candidates: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the candidates of all shards, -1 in empty places, and their approximate scores."""
        all_ids, all_scores = [], []
        for number, searcher in enumerate(self.searchers):
            start = number * self.parameters.shard_rows
            size = min(self.parameters.shard_rows, len(self.rows) - start)
            ids, scores = _search(searcher, queries, min(candidates, size), self.parameters.searched)
            ids = np.asarray(ids, np.int64)
            # ScaNN leaves places empty if the searched leaves have too few rows: ids out of range, or NaN.
            empty = (ids < 0) | (ids >= size) | np.isnan(scores)
            all_ids.append(np.where(empty, -1, ids + start))
            all_scores.append(np.where(empty, -np.inf, scores))
        return np.concatenate(all_ids, axis=1), np.concatenate(all_scores, axis=1)


def store(database: Database, index: ScannIndex) -> Database:
    """Writes an index beside a database's rows, replacing an earlier one, and returns the database with it.

    Raises:
      UserError: the folder cannot be written.
    """
    top = database.path / FOLDER
    names = [f"scann-{database.digest[:8]}-{number:05d}" for number in range(len(index.searchers))]
    try:
        shutil.rmtree(top, ignore_errors=True)  # the manifest still names it: a reader at this moment sees an error
        with files.new_directory(top) as folder:
            for name, searcher in zip(names, index.searchers, strict=True):
                (folder / name).mkdir()
                searcher.serialize(str(folder / name), relative_path=True)
            hashes = {
                path.relative_to(folder).as_posix(): files.sha256(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        record = {
            "kind": "scann",
            "digest": database.digest,
            "parameters": dataclasses.asdict(index.parameters),
            "shards": names,
            "files": hashes,
        }
        write_index_record(database.path, database.manifest, record)
    except OSError as error:
        raise UserError(f"cannot write the index to {top}: {error.strerror or error}; make room there") from error
    return Database.open(database.path)


def _searcher(rows: Float32[np.ndarray, "n d"], parameters: Parameters) -> Any:
    builder = _scann().builder(rows, min(len(rows), 10), "dot_product")
    if parameters.leaves == 0 or len(rows) < max(16, parameters.leaves):
        return builder.score_brute_force().build()
    tree = builder.tree(
        parameters.leaves, parameters.searched, training_sample_size=min(len(rows), parameters.training_rows)
    )
    return tree.score_ah(parameters.block, anisotropic_quantization_threshold=parameters.anisotropic_threshold).build()


def _search(searcher: Any, queries: np.ndarray, count: int, searched: int) -> tuple[np.ndarray, np.ndarray]:
    options = {"final_num_neighbors": count, **({"leaves_to_search": searched} if searched else {})}
    if len(queries) == 1:
        ids, scores = searcher.search(queries[0], **options)
        missing = (0, count - len(ids))
        return np.pad(ids.astype(np.int64), missing, constant_values=-1)[None], np.pad(scores, missing)[None]
    if len(queries) < PARALLEL_QUERIES:
        return searcher.search_batched(queries, **options)
    per_thread = -(-len(queries) // (os.cpu_count() or 1))
    return searcher.search_batched_parallel(queries, batch_size=per_thread, **options)


def _fill_empty(ids: Int64[np.ndarray, "q c"], rows: int, k: int) -> Int64[np.ndarray, "q c"]:
    """Replaces the empty places, -1, by rows that are not yet among the candidates."""
    ids = ids.copy()
    for row in ids:
        empty = row < 0
        if empty.any():
            row[empty] = np.setdiff1d(np.arange(min(rows, len(row) + k)), row[~empty])[: empty.sum()]
    return ids


def _scann() -> Any:
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise UserError(
            "ScaNN is not installed (there are wheels for x86-64 Linux); pip install scann, or use the index 'exact'"
        ) from error
    return scann_ops_pybind
