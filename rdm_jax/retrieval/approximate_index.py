"""Approximate search: an engine proposes rows, and the best proposals are compared exactly.

Rows are quantized in shards. The rows themselves stay on disk, so an index needs about an eighth of their size in
float16, whatever the size of the database. Each shard proposes its best candidates by the quantized scores; the best
candidates of all shards are compared exactly. `ENGINES` names what quantizes and proposes.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from rdm_jax.core import files, text
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.core.vectors import unit
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.engine import BRUTE_FORCE_ROWS, Engine, Parameters
from rdm_jax.retrieval.faiss_engine import Faiss
from rdm_jax.retrieval.index import MARGIN, check_search, rescore
from rdm_jax.retrieval.manifest import write_index_record
from rdm_jax.retrieval.rows import RowReader
from rdm_jax.retrieval.scann_engine import Scann

FOLDER = "index"

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (Scann(), Faiss())}
"""What proposes rows, by name; the first one that is installed is the default."""

_LOG = logging.getLogger(__name__)


def engine_of(name: str) -> Engine:
    """Returns an engine by its name.

    Raises:
      UserError: the name is unknown, or the engine is not installed.
    """
    if name not in ENGINES:
        raise unknown("index", name, ENGINES, hint="make it again with rdm database tune")
    engine = ENGINES[name]
    if not engine.installed():
        raise UserError(f"{engine.label} is not installed; {engine.advice}, or use the index 'exact'")
    return engine


def installed_engines() -> list[Engine]:
    """Returns the engines that are installed, the default first."""
    return [engine for engine in ENGINES.values() if engine.installed()]


def default_engine() -> Engine:
    """Returns the first engine that is installed; raises UserError if none is."""
    engines = installed_engines()
    return engines[0] if engines else engine_of(next(iter(ENGINES)))


@dataclasses.dataclass(frozen=True)
class ApproximateIndex:
    """Candidates from an engine, compared exactly.

    Attributes:
      rows: [n, d] the rows that are indexed.
      searchers: the engine's searchers, one for each shard.
      parameters: how they were built and are searched.
      engine: proposes the candidates.
    """

    rows: RowReader
    searchers: Sequence[Any]
    parameters: Parameters
    engine: Engine

    @staticmethod
    def build(
        rows: RowReader,
        parameters: Parameters | None = None,
        progress: ProgressCallback | None = None,
        engine: Engine | None = None,
    ) -> ApproximateIndex:
        """Builds an index; this needs about three times the memory of one shard as float32.

        Args:
          rows: [n, d] the rows to index.
          parameters: chosen from the number of rows if None.
          progress: called with (rows done, rows in all).
          engine: proposes the candidates; the first one that is installed if None.

        Raises:
          UserError: the engine is not installed, or none is.
        """
        engine = engine or default_engine()
        parameters = parameters or Parameters.of(*rows.shape)
        searchers = []
        for start in range(0, len(rows), parameters.shard_rows):
            shard = rows[start : start + parameters.shard_rows]
            searchers.append(engine.build(unit(shard, np.float32), parameters))
            if progress:
                progress(start + len(shard), len(rows))
        return ApproximateIndex(rows, searchers, parameters, engine)

    @staticmethod
    def of(database: Database, engine: Engine | None = None) -> ApproximateIndex:
        """Loads an engine's index that is stored beside a database's rows, or builds one in memory if there is none."""
        stored = database.manifest.get("index", {}).get("kind")
        if stored is not None and (engine is None or engine.name == stored):
            return ApproximateIndex.open(database)
        if len(database) >= BRUTE_FORCE_ROWS:
            _LOG.warning(
                "database %r has no index; one is built in memory; store it with rdm database tune", database.name
            )
        return ApproximateIndex.build(database.rows, engine=engine)

    @staticmethod
    def open(database: Database) -> ApproximateIndex:
        """Loads a database's stored index.

        Raises:
          UserError: its engine is unknown or not installed, or the index is damaged or belongs to other rows.
        """
        record = database.manifest["index"]
        if record["digest"] != database.digest:
            raise UserError(
                f"the index of database {database.name!r} belongs to other rows; make it with rdm database tune"
            )
        engine = engine_of(record["kind"])
        folder = database.path / FOLDER
        try:
            searchers = [engine.load(folder / name) for name in record["shards"]]
        except (RuntimeError, ValueError, OSError) as error:
            reason = (text.lines(str(error)) or [type(error).__name__])[0]
            raise UserError(f"damaged index {folder}: {reason}; make it again with rdm database tune") from error
        return ApproximateIndex(database.rows, searchers, Parameters(**record["parameters"]), engine)

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
            ids, scores = self.engine.search(searcher, queries, min(candidates, size), self.parameters.searched)
            ids = np.asarray(ids, np.int64)
            # Engines leave places empty if the searched leaves have too few rows: ids out of range, or NaN.
            empty = (ids < 0) | (ids >= size) | np.isnan(scores)
            all_ids.append(np.where(empty, -1, ids + start))
            all_scores.append(np.where(empty, -np.inf, scores))
        return np.concatenate(all_ids, axis=1), np.concatenate(all_scores, axis=1)


def store(database: Database, index: ApproximateIndex) -> Database:
    """Writes an index beside a database's rows, replacing an earlier one, and returns the database with it.

    Raises:
      UserError: the folder cannot be written.
    """
    top = database.path / FOLDER
    names = [f"{index.engine.name}-{database.digest[:8]}-{number:05d}" for number in range(len(index.searchers))]
    try:
        shutil.rmtree(top, ignore_errors=True)  # the manifest still names it: a reader at this moment sees an error
        with files.new_directory(top) as folder:
            for name, searcher in zip(names, index.searchers, strict=True):
                (folder / name).mkdir()
                index.engine.save(searcher, folder / name)
            hashes = {
                path.relative_to(folder).as_posix(): files.sha256(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        record = {
            "kind": index.engine.name,
            "digest": database.digest,
            "parameters": dataclasses.asdict(index.parameters),
            "shards": names,
            "files": hashes,
        }
        write_index_record(database.path, database.manifest, record)
    except OSError as error:
        raise UserError(f"cannot write the index to {top}: {error.strerror or error}; make room there") from error
    return Database.open(database.path)


def _fill_empty(ids: Int64[np.ndarray, "q c"], rows: int, k: int) -> Int64[np.ndarray, "q c"]:
    """Replaces the empty places, -1, by rows that are not yet among the candidates."""
    ids = ids.copy()
    for row in ids:
        empty = row < 0
        if empty.any():
            row[empty] = np.setdiff1d(np.arange(min(rows, len(row) + k)), row[~empty])[: empty.sum()]
    return ids
