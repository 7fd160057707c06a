"""Choosing the index of a database, and rebuilding the one that is stored beside its rows."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax

from rdm_jax.core.errors import unknown
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.index import Index
from rdm_jax.retrieval.scann_index import Parameters, ScannIndex, installed, store

_LOG = logging.getLogger(__name__)

INDEXES = ("auto", "exact", "scann")
# From this number of rows on, the approximate index saves more time on a CPU than it costs to build.
AUTO_SCANN_ROWS = 500_000


def make_index(database: Database, name: str = "auto") -> Index:
    """Returns an index over a database.

    Args:
      database: the rows to search.
      name: "exact", "scann", or "auto": the index that is stored with the database; if there is none, exact, unless
        the number of rows makes exact search slow on a CPU.

    Raises:
      UserError: the name is unknown, or ScaNN is not installed.
    """
    if name not in INDEXES:
        raise unknown("index", name, INDEXES)
    if name == "auto":
        approximate = "index" in database.manifest or is_large(database)
        if approximate and not installed():
            _LOG.warning(
                "ScaNN is not installed here: %d rows of %r are searched exactly", len(database), database.name
            )
        name = "scann" if approximate and installed() else "exact"
    return ExactIndex(database.rows) if name == "exact" else ScannIndex.of(database)


def is_large(database: Database) -> bool:
    """Returns whether an approximate index is worth building: many rows, and no accelerator to compare them all."""
    return len(database) >= AUTO_SCANN_ROWS and jax.default_backend() == "cpu"


def rebuild_index(database: Database, earlier: Mapping[str, Any], progress: ProgressCallback | None = None) -> Database:
    """Builds and stores the index of a database that is large or had an index before; returns the database with it.

    Args:
      database: without an index.
      earlier: the manifest of the database that this one replaced, or {}; its parameters are reused.
      progress: called with (rows done, rows in all).
    """
    if not installed() or not ("index" in earlier or is_large(database)):
        return database
    parameters = Parameters.of(*database.rows.shape)
    if "index" in earlier and parameters.leaves:
        former = Parameters(**earlier["index"]["parameters"])
        kept = {"candidates": former.candidates, "block": former.block, "shard_rows": former.shard_rows}
        fraction = former.searched / former.leaves if former.leaves else 0.1
        parameters = dataclasses.replace(parameters, searched=max(1, round(fraction * parameters.leaves)), **kept)
    return store(database, ScannIndex.build(database.rows, parameters, progress))
