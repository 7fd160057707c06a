"""Neighbours computed ahead of time: one record for each example of a data set, in its order, in ArrayRecord parts.

`sidecar` says what a record holds and reads it. There is a part for each file of the data set, so that a process that
reads some files of the one reads the same ones of the other. Parts are made as `parts` says: a stopped run goes on, and
several processes share the work; the folder gets its name when all are there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.duplicates import SAME, check_threshold
from rdm_jax.retrieval.embed import Progress, Seen, check_skipped, embed_part, unseen, write_parts
from rdm_jax.retrieval.encoder import Encoder
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.index import Index
from rdm_jax.retrieval.indexing import make_index
from rdm_jax.retrieval.parts import ALONE, Share, Workspace, difference
from rdm_jax.retrieval.prepare import Preparation, Prepared, Workers
from rdm_jax.retrieval.rows import SelectedRows
from rdm_jax.retrieval.shards import write_records
from rdm_jax.retrieval.sidecar import MANIFEST, SCHEMA, NeighborSidecar, neighbor_rows, packed, read_manifest

__all__ = ["NeighborSidecar", "Plan", "Report", "compute_neighbors"]

# Where a data set's files are not known, or one holds all, parts have so many examples at most.
PART_SIZE = 4096
QUERIES = 256


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which neighbours are wanted.

    Attributes:
      k: how many for each example.
      embeddings: whether the rows themselves are stored too, in float16.
      duplicates: rows of the example's own picture, by equal pixels or a cosine of at least this, are left out, so that
        a set which shares pictures with the database does not find itself; None keeps them.
      within: an attribute; neighbours carry the same value of it as their example. So a model learns from one
        collection at a time (one artist, one style), which is how a database is chosen when it draws.
      index: "auto", "exact" or "scann".
      part_size: how many examples a part has at most where the set is one file.

    Raises:
      UserError: a cosine out of (0, 1].
    """

    k: int
    embeddings: bool = True
    duplicates: float | None = SAME
    within: str | None = None
    index: str = "auto"
    part_size: int = PART_SIZE

    def __post_init__(self) -> None:
        check_threshold(self.duplicates)

    def record(self, source: ImageSource, database: Database) -> dict[str, Any]:
        """Returns what the manifest says of a run."""
        return {
            "schema": SCHEMA,
            "source": {"name": source.name, "fingerprint": source.fingerprint},
            "database": {"name": database.name, "digest": database.digest},
            "encoder": dict(database.encoder),
            "count": len(source),
            "k": self.k,
            "embeddings": self.embeddings,
            "duplicates": self.duplicates,
            "within": self.within,
            "part_lengths": [len(part) for part in self.parts(source)],
        }

    def parts(self, source: ImageSource) -> list[range]:
        """Returns the numbers of the examples of each part: those of one file of the set."""
        lengths = source.shard_lengths
        if len(lengths) == 1:
            starts = range(0, len(source), self.part_size)
            return [range(start, min(start + self.part_size, len(source))) for start in starts]
        ends = np.cumsum(lengths).tolist()
        return [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
      path: the folder of records.
      count: how many records it has.
      resumed: how many of them were there before.
      skipped: one line for each picture that could not be read.
      missing: how many parts other processes have still to make.
    """

    path: Path
    count: int
    resumed: int
    skipped: list[str]
    missing: int = 0


def compute_neighbors(
    source: ImageSource,
    encoder: Encoder,
    database: Database,
    plan: Plan,
    out: Path,
    *,
    max_skip: float = 0.05,
    share: Share = ALONE,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Writes the nearest rows of a database for each example of a source; goes on with an unfinished run.

    Args:
      source: the examples.
      encoder: the one that made the database.
      database: where the neighbours come from.
      plan: which of them.
      out: a folder that does not exist yet, or one that a run with the same inputs has finished.
      max_skip: the share of unreadable pictures, in [0, 1], above which the run fails.
      share: which of several processes, that work on the same folder, this one is.
      workers: processes that decode; chosen from the machine if None, threads of this process if 0.
      progress: called with (examples done, examples in all).

    Raises:
      UserError: `out` holds something else, k does not fit the database, another encoder made it, or too many pictures
        are broken.
    """
    out = Path(out)
    record = check(source, encoder, database, plan)
    if out.exists():
        return Report(out, len(source), len(source), _finished(out, record)["skipped"])
    searcher = Searcher.of(database, plan)
    parts = plan.parts(source)
    work = Workspace.open(out, record, len(parts))
    with work.locked(share):
        resumed = sum(len(parts[number]) for number in work.done())

        def write(folder: Path, number: int, pool: Workers, seen: Seen) -> dict[str, Any]:
            return write_part(folder, number, work.count, parts[number], encoder, searcher, pool, seen)

        write_parts(work, source, parts, Preparation(encoder.image_size), write, max_skip, share, workers, progress)
        with work.finishing():
            if out.exists():  # made by another process, which had its last part at the same time
                return Report(out, len(source), resumed, _finished(out, record)["skipped"])
            if missing := work.count - len(work.done()):
                return Report(out, len(source), resumed, [], missing)
            skipped = finish(work, record, out, max_skip)
    return Report(out, len(source), resumed, skipped)


def finish(work: Workspace, record: Mapping[str, Any], out: Path, max_skip: float) -> list[str]:
    """Gives the folder of all parts its manifest and its name, and returns what was skipped.

    Raises:
      UserError: too many pictures are broken.
    """
    manifest = manifest_of(work, record)
    count = int(record["count"])
    check_skipped(manifest["skipped"], count, count, record["source"]["name"], max_skip)
    files.write_json(work.folder / MANIFEST, manifest)
    work.clear()
    work.folder.rename(out)
    return manifest["skipped"]


def manifest_of(work: Workspace, record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest of a run whose parts are all there."""
    notes = [work.notes(number) for number in range(work.count)]
    return {
        **record,
        "skipped": [line for note in notes for line in note["skipped"]],
        "files": {name: value for note in notes for name, value in note["hashes"].items()},
    }


def check(source: ImageSource, encoder: Encoder, database: Database, plan: Plan) -> dict[str, Any]:
    """Returns the record of a run; raises UserError where encoder, k and database do not fit each other."""
    database.check_encoder(encoder.identity)
    if not 1 <= plan.k <= len(database):
        raise UserError(
            f"k {plan.k} is out of range; database {database.name!r} has {len(database)} rows, give 1 to "
            f"{len(database)}"
        )
    return plan.record(source, database)


@dataclasses.dataclass(frozen=True)
class _Collection:
    """Rows of a database that are searched on their own: all of them where `ids` is None."""

    ids: np.ndarray | None
    index: Index
    size: int

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found, scores = self.index.search(queries, k)
        return (found if self.ids is None else self.ids[found]), scores


def _collections(database: Database, within: str | None, kind: str) -> dict[str | None, _Collection]:
    """Returns one collection for each value of an attribute, or a single one of all rows under the name None."""
    if within is None:
        return {None: _Collection(None, make_index(database, kind), len(database))}
    values = np.array(database.column(within).to_pylist(), object)
    groups = {str(value): np.flatnonzero(values == value) for value in set(values.tolist()) - {None}}
    if not groups:
        raise UserError(f"no row of database {database.name!r} has the attribute {within!r}; see `rdm database info`")
    return {
        name: _Collection(ids, ExactIndex(SelectedRows(database.rows, ids)), len(ids)) for name, ids in groups.items()
    }


@dataclasses.dataclass(frozen=True)
class Searcher:
    """Finds the k nearest rows of examples, without their own pictures where that is asked for.

    Attributes:
      database: where the rows are.
      collections: what is searched for each value of the attribute that neighbours share with their example.
      plan: which neighbours.
    """

    database: Database
    collections: Mapping[str | None, _Collection]
    plan: Plan

    @staticmethod
    def of(database: Database, plan: Plan) -> Searcher:
        """Returns the searcher of a plan; raises UserError where no row has the attribute that they share."""
        return Searcher(database, _collections(database, plan.within, plan.index), plan)

    def search(self, queries: np.ndarray, items: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids [q, k] and scores [q, k] for examples by their embeddings [q, d] and what is told of them."""
        k, within = self.plan.k, self.plan.within
        names = [None if within is None else str(item["attributes"].get(within)) for item in items]
        own = np.array([_short(item["sha256"]) for item in items], np.uint64)
        ids = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for name in dict.fromkeys(names):
            chosen = np.array([i for i, other in enumerate(names) if other == name])
            ids[chosen], scores[chosen] = self._search(self._collection(name), queries[chosen], own[chosen])
        return ids, scores

    def _collection(self, name: str | None) -> _Collection:
        collection = self.collections.get(name)
        if collection is None or collection.size < self.plan.k:
            raise UserError(
                f"database {self.database.name!r} has {collection.size if collection else 0} rows with "
                f"{self.plan.within} {name!r}, and {self.plan.k} neighbours are wanted; lower k, or leave "
                f"{self.plan.within!r} free"
            )
        return collection

    def _search(self, collection: _Collection, queries: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k, threshold = self.plan.k, self.plan.duplicates
        if threshold is None:
            return collection.search(queries, k)
        wanted = k + 8
        while True:
            wanted = min(wanted, collection.size)
            ids, scores = collection.search(queries, wanted)
            kept = (self._hashes[ids] != own[:, None]) & (scores < threshold)
            if (kept.sum(axis=1) >= k).all():
                first = np.argsort(~kept, axis=1, kind="stable")[:, :k]
                return np.take_along_axis(ids, first, axis=1), np.take_along_axis(scores, first, axis=1)
            if wanted == collection.size:
                raise UserError(
                    f"database {self.database.name!r} has fewer than {k} rows for an example when its duplicates are "
                    f"excluded; lower k from {k}"
                )
            wanted *= 2

    @functools.cached_property
    def _hashes(self) -> np.ndarray:
        return np.array([_short(value) for value in self.database.image_hashes()], np.uint64)


def write_part(
    folder: Path,
    number: int,
    of: int,
    indices: Sequence[int],
    encoder: Encoder,
    searcher: Searcher,
    workers: Workers,
    seen: Seen = unseen,
) -> dict[str, Any]:
    """Writes the records of one part, whole or not at all, and returns its notes: hashes, and what was skipped.

    Args:
      folder: where to.
      number: of the part.
      of: how many parts there are.
      indices: the numbers of its examples.
      encoder: makes the queries.
      searcher: finds the neighbours.
      workers: prepare the pictures.
      seen: called after each picture with how many of the part are done, and which were broken.
    """
    examples, queries, broken = embed_part(indices, encoder, workers, seen)
    name = f"neighbors-{number:05d}-of-{of:05d}.array_record"
    with files.writing(folder), files.replaced(folder / name) as path:
        _write_records(path, np.asarray(indices), examples, queries, searcher)
    return {"hashes": {name: files.sha256(folder / name)}, "skipped": broken}


def _write_records(
    path: Path, rows: np.ndarray, examples: Sequence[Prepared], queries: np.ndarray, searcher: Searcher
) -> None:
    good = np.array([not one.broken for one in examples], bool)
    items = [one.items[0] for one in examples if not one.broken]
    ids = np.full((len(examples), searcher.plan.k), -1, np.int64)
    scores = np.zeros((len(examples), searcher.plan.k), np.float32)
    found = [
        searcher.search(queries[start : start + QUERIES], items[start : start + QUERIES])
        for start in range(0, len(queries), QUERIES)
    ]
    if found:
        ids[good] = np.concatenate([part[0] for part in found])
        scores[good] = np.concatenate([part[1] for part in found])
    write_records(path, _packed(rows, ids, scores, searcher))


def _packed(rows: np.ndarray, ids: np.ndarray, scores: np.ndarray, searcher: Searcher) -> Iterator[bytes]:
    for start in range(0, len(ids), QUERIES):
        part = slice(start, start + QUERIES)
        embeddings = neighbor_rows(searcher.database, ids[part]) if searcher.plan.embeddings else None
        yield from packed(rows[part], ids[part], scores[part], embeddings)


def _finished(out: Path, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the manifest of a finished run; raises UserError if it was another run."""
    manifest = read_manifest(out)
    record = {key: value for key, value in record.items() if key != "part_lengths"}  # records do not depend on them
    if differing := difference(manifest, record):
        raise UserError(f"{out} was computed with another {differing}; remove it or choose another folder")
    return manifest


def _short(sha256: str) -> int:
    """Returns the first 64 bits of a hash: millions of them fit into memory."""
    return int(sha256[:16] or "0", 16)
