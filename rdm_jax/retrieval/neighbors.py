"""Computes neighbors ahead of time: one record for each example of a data set, in order, in ArrayRecord parts.

`sidecar` defines and reads the records. There is one part for each file of the data set, so that a process that reads
some files of the one reads the same files of the other. Parts are made as in `parts`: a stopped run resumes, and
several processes share the work. The folder gets its name when all parts are complete.
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
from rdm_jax.retrieval.encoder import RetrievalEncoder
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.index import Index
from rdm_jax.retrieval.indexing import make_index
from rdm_jax.retrieval.jobs import (
    DEFAULT_EXECUTION,
    Execution,
    PartCallback,
    check_skipped,
    embed_part,
    ignore_progress,
    write_parts,
)
from rdm_jax.retrieval.parts import Workspace, difference
from rdm_jax.retrieval.prepare import Preparation, Prepared, Workers
from rdm_jax.retrieval.rows import SelectedRows
from rdm_jax.retrieval.shards import write_records
from rdm_jax.retrieval.sidecar import (
    SCHEMA,
    complete_manifest,
    neighbor_rows,
    pack_records,
    read_manifest,
    write_manifest,
)

# The largest number of examples in a part if the files of the data set are unknown, or one file holds all examples.
PART_SIZE = 4096
QUERIES = 256


@dataclasses.dataclass(frozen=True)
class NeighborOptions:
    """Which neighbors are computed.

    Attributes:
      k: the number of neighbors of each example.
      embeddings: whether the rows are stored too, in float16.
      duplicates: omits rows of the example's own image, by equal pixels or a cosine of at least this, so that in a
        database that shares images with the data set an example is not its own neighbor; keeps them if None.
      within: an attribute; the neighbors of an example have the same value of it. A model then learns from one
        collection at a time (one artist, one style), as when it samples with a database of one style.
      index: "auto", "exact" or "scann".
      part_size: the largest number of examples in a part if the data set is one file.

    Raises:
      UserError: the cosine is not in (0, 1].
    """

    k: int
    embeddings: bool = True
    duplicates: float | None = SAME
    within: str | None = None
    index: str = "auto"
    part_size: int = PART_SIZE

    def __post_init__(self) -> None:
        check_threshold(self.duplicates)


@dataclasses.dataclass(frozen=True)
class NeighborJob:
    """The neighbors of a source's examples in a database.

    Attributes:
      source: the examples.
      encoder: the encoder that made the database.
      database: the rows that are searched.
      options: which neighbors are computed.

    Raises:
      UserError: another encoder made the database, or k does not fit its size.
    """

    source: ImageSource
    encoder: RetrievalEncoder
    database: Database
    options: NeighborOptions

    def __post_init__(self) -> None:
        self.database.check_encoder(self.encoder.identity)
        count = len(self.database)
        if not 1 <= self.options.k <= count:
            raise UserError(
                f"k {self.options.k} is out of range; database {self.database.name!r} has {count} rows, give 1 to "
                f"{count}"
            )

    @property
    def parts(self) -> Sequence[range]:
        """The numbers of the examples of each part: those of one file of the data set."""
        return self._parts

    @functools.cached_property
    def _parts(self) -> Sequence[range]:
        lengths, size = self.source.shard_lengths, self.options.part_size
        if len(lengths) == 1:
            starts = range(0, len(self.source), size)
            return [range(start, min(start + size, len(self.source))) for start in starts]
        ends = np.cumsum(lengths).tolist()
        return [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]

    @property
    def preparation(self) -> Preparation:
        """How an image is prepared for the encoder."""
        return Preparation(self.encoder.image_size)

    @property
    def record(self) -> Mapping[str, Any]:
        """The manifest's description of the neighbors; JSON that differs if any record would differ."""
        return {
            "schema": SCHEMA,
            "source": {"name": self.source.name, "fingerprint": self.source.fingerprint},
            "database": {"name": self.database.name, "digest": self.database.digest},
            "encoder": dict(self.database.encoder),
            "count": len(self.source),
            "k": self.options.k,
            "embeddings": self.options.embeddings,
            "duplicates": self.options.duplicates,
            "within": self.options.within,
            "part_lengths": [len(part) for part in self.parts],
        }

    @functools.cached_property
    def searcher(self) -> Searcher:
        """Finds the neighbors; raises UserError if no row has the attribute `within`."""
        return Searcher.of(self.database, self.options)

    def write_part(
        self, folder: Path, number: int, workers: Workers, on_image: PartCallback = ignore_progress
    ) -> dict[str, Any]:
        """Writes the records of one part and returns its notes: the hash of the file, and what was skipped."""
        indices = self.parts[number]
        examples, queries, broken = embed_part(indices, self.encoder, workers, on_image)
        name = f"neighbors-{number:05d}-of-{len(self.parts):05d}.array_record"
        with files.writing(folder), files.replaced(folder / name) as path:
            ids, scores = self._search(examples, queries)
            write_records(path, self._records(np.asarray(indices), ids, scores))
        return {"hashes": {name: files.sha256(folder / name)}, "skipped": broken}

    def _search(self, examples: Sequence[Prepared], queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids [n, k] and scores [n, k]; ids of -1 and scores of 0 for a broken image."""
        readable = np.array([not example.broken for example in examples], bool)
        items = [example.items[0] for example in examples if not example.broken]
        ids = np.full((len(examples), self.options.k), -1, np.int64)
        scores = np.zeros((len(examples), self.options.k), np.float32)
        batches = [
            self.searcher.search(queries[start : start + QUERIES], items[start : start + QUERIES])
            for start in range(0, len(queries), QUERIES)
        ]
        if batches:
            ids[readable] = np.concatenate([batch[0] for batch in batches])
            scores[readable] = np.concatenate([batch[1] for batch in batches])
        return ids, scores

    def _records(self, indices: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> Iterator[bytes]:
        for start in range(0, len(ids), QUERIES):
            part = slice(start, start + QUERIES)
            embeddings = neighbor_rows(self.database, ids[part]) if self.options.embeddings else None
            yield from pack_records(indices[part], ids[part], scores[part], embeddings)


@dataclasses.dataclass(frozen=True)
class NeighborReport:
    """The result of a run.

    Attributes:
      path: the folder of records.
      count: the number of records.
      resumed: the number of records that an earlier run had finished.
      skipped: one line for each image that could not be read.
      missing: the number of parts that other processes still have to make.
    """

    path: Path
    count: int
    resumed: int
    skipped: list[str]
    missing: int = 0


def compute_neighbors(job: NeighborJob, out: Path, execution: Execution = DEFAULT_EXECUTION) -> NeighborReport:
    """Writes the nearest rows of a database for each example of a source, or resumes an unfinished run of the job.

    Args:
      job: the examples, the encoder, the database and the options.
      out: a folder that does not exist yet, or one that the same job has finished.
      execution: how the job is run.

    Raises:
      UserError: `out` holds something else, no row has the attribute `within`, or too many images are broken.
    """
    out, count = Path(out), len(job.source)
    if out.exists():
        return NeighborReport(out, count, count, _check_finished(out, job)["skipped"])
    _ = job.searcher  # a bad attribute fails here, before any image is encoded
    work = Workspace.open(out, job.record, len(job.parts))
    with work.locked(execution.process):
        resumed = sum(len(job.parts[number]) for number in work.done())
        write_parts(job, work, execution)
        with work.finishing():
            if out.exists():  # another process finished its last part at the same time
                return NeighborReport(out, count, resumed, _check_finished(out, job)["skipped"])
            if missing := work.count - len(work.done()):
                return NeighborReport(out, count, resumed, [], missing)
            skipped = finish(job, work, out, execution.max_skip)
    return NeighborReport(out, count, resumed, skipped)


def finish(job: NeighborJob, work: Workspace, out: Path, max_skip: float) -> list[str]:
    """Writes the manifest of complete parts, moves the folder to `out`, and returns what was skipped.

    Raises:
      UserError: too many images are broken.
    """
    manifest = collect_parts(job, work, max_skip)
    write_manifest(work.folder, manifest)
    work.clear()
    work.folder.rename(out)
    return manifest["skipped"]


def collect_parts(job: NeighborJob, work: Workspace, max_skip: float) -> dict[str, Any]:
    """Returns the manifest of complete parts; raises UserError if too many images are broken."""
    manifest = complete_manifest(job.record, [work.notes(number) for number in range(work.count)])
    count = len(job.source)
    check_skipped(manifest["skipped"], count, count, job.source.name, max_skip)
    return manifest


@dataclasses.dataclass(frozen=True)
class _Collection:
    """Rows of a database that are searched separately: all of them if `ids` is None."""

    ids: np.ndarray | None
    index: Index
    size: int

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids, scores = self.index.search(queries, k)
        return (ids if self.ids is None else self.ids[ids]), scores


def _collections(database: Database, within: str | None, index: str) -> dict[str | None, _Collection]:
    """Returns one collection for each value of an attribute, or a single one of all rows under the name None."""
    if within is None:
        return {None: _Collection(None, make_index(database, index), len(database))}
    values = np.array(database.column(within).to_pylist(), object)
    groups = {str(value): np.flatnonzero(values == value) for value in set(values.tolist()) - {None}}
    if not groups:
        raise UserError(f"no row of database {database.name!r} has the attribute {within!r}; see `rdm database info`")
    rows = {name: SelectedRows(database.rows, ids) for name, ids in groups.items()}
    return {name: _Collection(groups[name], ExactIndex(group), len(group)) for name, group in rows.items()}


@dataclasses.dataclass(frozen=True)
class Searcher:
    """Finds the k nearest rows of examples, without their own images if the options omit them.

    Attributes:
      database: the rows.
      collections: the rows to search for each value of the attribute `within`.
      options: which neighbors are computed.
    """

    database: Database
    collections: Mapping[str | None, _Collection]
    options: NeighborOptions

    @staticmethod
    def of(database: Database, options: NeighborOptions) -> Searcher:
        """Returns the searcher of a database; raises UserError if no row has the attribute `within`."""
        return Searcher(database, _collections(database, options.within, options.index), options)

    def search(self, queries: np.ndarray, items: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids [q, k] and scores [q, k] for examples by their embeddings [q, d] and items."""
        k, within = self.options.k, self.options.within
        names = [None if within is None else str(item["attributes"].get(within)) for item in items]
        own = np.array([_short_hash(item["sha256"]) for item in items], np.uint64)
        ids = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for name in dict.fromkeys(names):
            places = np.array([i for i, other in enumerate(names) if other == name])
            ids[places], scores[places] = self._search(self._collection(name), queries[places], own[places])
        return ids, scores

    def _collection(self, name: str | None) -> _Collection:
        collection, within = self.collections.get(name), self.options.within
        if collection is None or collection.size < self.options.k:
            raise UserError(
                f"database {self.database.name!r} has {collection.size if collection else 0} rows with {within} "
                f"{name!r}, fewer than k = {self.options.k}; lower k, or do not restrict neighbors to their {within!r}"
            )
        return collection

    def _search(self, collection: _Collection, queries: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k nearest rows that are not duplicates; searches more rows until there are enough."""
        k, threshold = self.options.k, self.options.duplicates
        if threshold is None:
            return collection.search(queries, k)
        candidates = k + 8
        while True:
            candidates = min(candidates, collection.size)
            ids, scores = collection.search(queries, candidates)
            kept = (self._image_hashes[ids] != own[:, None]) & (scores < threshold)
            if (kept.sum(axis=1) >= k).all():
                first = np.argsort(~kept, axis=1, kind="stable")[:, :k]
                return np.take_along_axis(ids, first, axis=1), np.take_along_axis(scores, first, axis=1)
            if candidates == collection.size:
                raise UserError(
                    f"database {self.database.name!r} has fewer than {k} rows for an example when its duplicates are "
                    f"excluded; lower k from {k}"
                )
            candidates *= 2

    @functools.cached_property
    def _image_hashes(self) -> np.ndarray:
        return np.array([_short_hash(value) for value in self.database.image_hashes()], np.uint64)


def _check_finished(out: Path, job: NeighborJob) -> Mapping[str, Any]:
    """Returns the manifest of a finished run; raises UserError if another job made it."""
    manifest = read_manifest(out)
    record = {key: value for key, value in job.record.items() if key != "part_lengths"}  # records do not depend on them
    if differing := difference(manifest, record):
        raise UserError(f"{out} was computed with another {differing}; remove it or choose another folder")
    return manifest


def _short_hash(sha256: str) -> int:
    """Returns the first 64 bits of a hash, so that millions of them fit into memory."""
    return int(sha256[:16] or "0", 16)
