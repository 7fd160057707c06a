"""Choosing the index of a database, and rebuilding the one that is stored beside its rows."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax

from rdm_jax.core.errors import unknown
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.retrieval.approximate_index import ENGINES, ApproximateIndex, engine_of, installed_engines, store
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.engine import Parameters
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.index import Index

_LOG = logging.getLogger(__name__)

INDEXES = ("auto", "exact", *ENGINES)
# From this number of rows on, the approximate index saves more time on a CPU than it costs to build.
AUTO_ROWS = 500_000


def make_index(database: Database, name: str = "auto") -> Index:
    """Returns an index over a database.

    Args:
      database: the rows to search.
      name: "exact", an engine of approximate search ("scann", "faiss"), or "auto": the index that is stored with the
        database, if its engine is installed; if there is none, exact, unless the number of rows makes exact search
        slow on a CPU, where the first installed engine builds one in memory.

    Raises:
      UserError: the name is unknown, or the engine is not installed.
    """
    if name not in INDEXES:
        raise unknown("index", name, INDEXES)
    if name == "exact":
        return ExactIndex(database.rows)
    if name != "auto":
        return ApproximateIndex.of(database, engine_of(name))
    stored, engines = database.manifest.get("index", {}).get("kind"), installed_engines()
    if any(engine.name == stored for engine in engines):
        return ApproximateIndex.open(database)
    if stored is None and not is_large(database):
        return ExactIndex(database.rows)
    if is_large(database) and engines:
        return ApproximateIndex.of(database, engines[0])
    wanted = ENGINES[stored].label if stored and stored in ENGINES else "an engine of approximate search"
    _LOG.warning("%s is not installed here: %d rows of %r are searched exactly", wanted, len(database), database.name)
    return ExactIndex(database.rows)


def is_large(database: Database) -> bool:
    """Returns whether an approximate index is worth building: many rows, and no accelerator to compare them all."""
    return len(database) >= AUTO_ROWS and jax.default_backend() == "cpu"


def rebuild_index(database: Database, earlier: Mapping[str, Any], progress: ProgressCallback | None = None) -> Database:
    """Builds and stores the index of a database that is large or had an index before; returns the database with it.

    Args:
      database: without an index.
      earlier: the manifest of the database that this one replaced, or {}; its parameters are reused.
      progress: called with (rows done, rows in all).
    """
    engines = installed_engines()
    if not engines or not ("index" in earlier or is_large(database)):
        return database
    parameters = Parameters.of(*database.rows.shape)
    if "index" in earlier and parameters.leaves:
        former = Parameters(**earlier["index"]["parameters"])
        kept = {"candidates": former.candidates, "block": former.block, "shard_rows": former.shard_rows}
        fraction = former.searched / former.leaves if former.leaves else 0.1
        parameters = dataclasses.replace(parameters, searched=max(1, round(fraction * parameters.leaves)), **kept)
    former_kind = earlier.get("index", {}).get("kind")
    engine = next((one for one in engines if one.name == former_kind), engines[0])
    return store(database, ApproximateIndex.build(database.rows, parameters, progress, engine))
