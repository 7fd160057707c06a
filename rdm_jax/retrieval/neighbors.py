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
from rdm_jax.retrieval.encoder import RetrievalEncoder
from rdm_jax.retrieval.jobs import (
    DEFAULT_EXECUTION,
    Execution,
    PartCallback,
    check_skipped,
    embed_part,
    ignore_progress,
    write_parts,
)
from rdm_jax.retrieval.neighbor_search import NeighborOptions, Searcher
from rdm_jax.retrieval.parts import Workspace, difference
from rdm_jax.retrieval.prepare import Preparation, Prepared, Workers
from rdm_jax.retrieval.shards import write_records
from rdm_jax.retrieval.sidecar import (
    SCHEMA,
    complete_manifest,
    neighbor_rows,
    pack_records,
    read_manifest,
    write_manifest,
)

QUERIES = 256


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
      count: the number of records.
      resumed: the number of records that an earlier run had finished.
      skipped: one line for each image that could not be read.
      missing: the number of parts that other processes still have to make.
    """

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
        return NeighborReport(count, count, _check_finished(out, job)["skipped"])
    _ = job.searcher  # a bad attribute fails here, before any image is encoded
    work = Workspace.open(out, job.record, len(job.parts))
    with work.locked(execution.process):
        resumed = sum(len(job.parts[number]) for number in work.done())
        write_parts(job, work, execution)
        with work.finishing():
            if out.exists():  # another process finished its last part at the same time
                return NeighborReport(count, resumed, _check_finished(out, job)["skipped"])
            if missing := work.count - len(work.done()):
                return NeighborReport(count, resumed, [], missing)
            skipped = finish(job, work, out, execution.max_skip)
    return NeighborReport(count, resumed, skipped)


def finish(job: NeighborJob, work: Workspace, out: Path, max_skip: float) -> list[str]:
    """Writes the manifest of complete parts, moves the folder to `out`, and returns what was skipped.

    Raises:
      UserError: too many images are broken, or the folder cannot be written.
    """
    manifest = collect_parts(job, work, max_skip)
    with files.writing(out):
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


def _check_finished(out: Path, job: NeighborJob) -> Mapping[str, Any]:
    """Returns the manifest of a finished run; raises UserError if another job made it."""
    manifest = read_manifest(out)
    record = {key: value for key, value in job.record.items() if key != "part_lengths"}  # records do not depend on them
    if differing := difference(manifest, record):
        raise UserError(f"{out} was computed with another {differing}; remove it or choose another folder")
    return manifest
