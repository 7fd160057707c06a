"""ScaNN (https://arxiv.org/abs/1908.10396) behind the contract of an index; the one file that imports it.

Rows are quantised in shards and stay on disk themselves: an index takes about an eighth of what they take as
float16, whatever the size of the database. Each shard gives its best candidates by the quantised scores, the
best of all are compared exactly.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import MANIFEST, Database
from rdm_jax.retrieval.index import MARGIN, RowSource, check_search, is_large, rescore, unit

FOLDER = "index"
# ScaNN's own advice (docs/algorithms.md): brute force below 20,000 rows, above it a few times sqrt(n) leaves.
BRUTE_FORCE_ROWS = 20_000
SHARD_ROWS = 1_000_000
TRAINING_ROWS = 250_000
# From this width on, four numbers are quantised together: half the memory of two, and at a million rows 1.3 ms in place
# of 1.9 for 99 % of the neighbours of pictures, 5.0 in place of 4.6 for those of texts.
WIDE = 256
# So many queries at once are searched by several threads.
PARALLEL_QUERIES = 16
PICKLE = "scann_docids.pkl"

_LOG = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Parameters:
    """How rows are indexed and searched.

    Attributes:
      leaves: of the tree in each shard; 0 compares all quantised rows.
      searched: how many of them a query looks into.
      candidates: how many rows are compared exactly, at least.
      training_rows: how many rows of a shard the tree is learned from.
      anisotropic_threshold: of the quantisation; ScaNN's 0.2 is for unit vectors of a few hundred dimensions.
      block: how many dimensions are quantised together.
      shard_rows: how many rows a shard has at most.
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
        """Returns parameters for rows of a width that find most neighbours; `tune` finds those for a target."""
        rows = min(count, SHARD_ROWS)
        if rows < BRUTE_FORCE_ROWS:
            return Parameters(leaves=0, searched=0)
        leaves = 2 * math.isqrt(rows)
        block = 4 if width >= WIDE else 2
        return Parameters(leaves, max(1, leaves // 10), training_rows=min(rows, TRAINING_ROWS), block=block)


def installed() -> bool:
    """Says whether ScaNN can be imported."""
    return importlib.util.find_spec("scann") is not None


@dataclasses.dataclass(frozen=True)
class ScannIndex:
    """Candidates from ScaNN, compared exactly.

    Attributes:
      rows: [n, d] the rows that the searchers were made of.
      searchers: ScaNN's own objects, one for each shard.
      parameters: how they were made and are searched.
    """

    rows: RowSource
    searchers: Sequence[Any]
    parameters: Parameters

    @staticmethod
    def build(rows: RowSource, parameters: Parameters | None = None, progress: Progress | None = None) -> ScannIndex:
        """Makes an index; while it works it needs about three times the memory of one shard as float32.

        Args:
          rows: [n, d] what is indexed.
          parameters: chosen from the number of rows if None.
          progress: called with (rows done, rows in all).

        Raises:
          UserError: ScaNN is not installed.
        """
        parameters = parameters or Parameters.of(*rows.shape)
        searchers = []
        for start in range(0, len(rows), parameters.shard_rows):
            shard = rows[start : start + parameters.shard_rows]
            searchers.append(_searcher(unit(shard), parameters))
            if progress:
                progress(start + len(shard), len(rows))
        return ScannIndex(rows, searchers, parameters)

    @staticmethod
    def of(database: Database) -> ScannIndex:
        """Loads the index stored beside a database's rows, or makes one in memory where there is none."""
        if "index" in database.manifest:
            return ScannIndex.open(database)
        if len(database) >= BRUTE_FORCE_ROWS:
            _LOG.warning(
                "database %r has no index, one is made in memory; store it by rdm database tune", database.name
            )
        return ScannIndex.build(database.rows)

    @staticmethod
    def open(database: Database) -> ScannIndex:
        """Loads a database's stored index.

        Raises:
          UserError: ScaNN is not installed, or the index is damaged or of other rows.
        """
        told = database.manifest["index"]
        if told["digest"] != database.digest:
            raise UserError(f"the index of database {database.name!r} is of other rows; make it by rdm database tune")
        folder = database.path / FOLDER
        # ScaNN would run what its pickle of names holds; what is written here never has one.
        if any((folder / name / PICKLE).exists() for name in told["shards"]):
            raise UserError(f"index {folder} holds a pickle, which is not opened; make it again by rdm database tune")
        try:
            searchers = [_scann().load_searcher(str(folder / name)) for name in told["shards"]]
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"damaged index {folder}: {reason}; make it again by rdm database tune") from error
        return ScannIndex(database.rows, searchers, Parameters(**told["parameters"]))

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
        ids, scores = self._proposed(unit(queries), candidates)
        if ids.shape[1] > candidates:
            best = np.argpartition(-scores, candidates - 1, axis=1)[:, :candidates]
            ids = np.take_along_axis(ids, best, axis=1)
        return rescore(self.rows, queries, _filled(ids, len(self.rows), k), k)

    def _proposed(self, queries: np.ndarray, candidates: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns each shard's candidates, numbered through the whole and -1 where it has none, and rough scores."""
        ids, scores = [], []
        for number, searcher in enumerate(self.searchers):
            start = number * self.parameters.shard_rows
            size = min(self.parameters.shard_rows, len(self.rows) - start)
            found, score = _search(searcher, queries, min(candidates, size), self.parameters.searched)
            found = np.asarray(found, np.int64)
            # ScaNN leaves places empty where the searched leaves hold too few rows: numbers out of range, or NaN.
            empty = (found < 0) | (found >= size) | np.isnan(score)
            ids.append(np.where(empty, -1, found + start))
            scores.append(np.where(empty, -np.inf, score))
        return np.concatenate(ids, axis=1), np.concatenate(scores, axis=1)


def store(database: Database, index: ScannIndex) -> Database:
    """Writes an index beside its database's rows, in place of an earlier one, and returns the database with it.

    Raises:
      UserError: the folder cannot be written.
    """
    top = database.path / FOLDER
    names = [f"scann-{database.digest[:8]}-{number:05d}" for number in range(len(index.searchers))]
    try:
        shutil.rmtree(top, ignore_errors=True)  # the manifest still names it, and says so where a reader comes now
        with files.new_directory(top) as folder:
            for name, searcher in zip(names, index.searchers, strict=True):
                (folder / name).mkdir()
                searcher.serialize(str(folder / name), relative_path=True)
            hashes = {
                path.relative_to(folder).as_posix(): files.sha256(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        told = {
            "kind": "scann",
            "digest": database.digest,
            "parameters": dataclasses.asdict(index.parameters),
            "shards": names,
            "files": hashes,
        }
        files.write_json(database.path / MANIFEST, {**database.manifest, "index": told})
    except OSError as error:
        raise UserError(f"cannot write the index to {top}: {error.strerror or error}; make room there") from error
    return Database.open(database.path)


def index_again(database: Database, earlier: Mapping[str, Any], progress: Progress | None = None) -> Database:
    """Makes and stores the index of a database that is large, or whose earlier manifest had one; returns it with it.

    Args:
      database: without an index.
      earlier: the manifest of the database that this one took the place of, or {}; its parameters are taken over.
      progress: called with (rows done, rows in all).
    """
    if not installed() or not ("index" in earlier or is_large(database)):
        return database
    parameters = Parameters.of(*database.rows.shape)
    if "index" in earlier and parameters.leaves:
        former = Parameters(**earlier["index"]["parameters"])
        kept = {"candidates": former.candidates, "block": former.block, "shard_rows": former.shard_rows}
        share = former.searched / former.leaves if former.leaves else 0.1
        parameters = dataclasses.replace(parameters, searched=max(1, round(share * parameters.leaves)), **kept)
    return store(database, ScannIndex.build(database.rows, parameters, progress))


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
    share = -(-len(queries) // (os.cpu_count() or 1))
    return searcher.search_batched_parallel(queries, batch_size=share, **options)


def _filled(ids: Int64[np.ndarray, "q c"], rows: int, k: int) -> Int64[np.ndarray, "q c"]:
    """Replaces what ScaNN leaves empty, where the searched leaves hold too few rows, by rows not yet among them."""
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
            "ScaNN is not installed (there are wheels for x86-64 Linux); pip install scann, or take the index 'exact'"
        ) from error
    return scann_ops_pybind
