"""Builds databases and computes neighbors in an Apache Beam pipeline; the one file that imports Beam.

Beam only distributes the numbers of parts. A worker runs the same job as the local build, so that the rows are equal,
and writes the files of a part and then its notes to the output, which may be object storage. A stopped pipeline
resumes with the missing parts.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rdm_jax.bundle import Bundle
from rdm_jax.core import paths, storage
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.retrieval import build, neighbors, sidecar
from rdm_jax.retrieval.build import BuildJob, BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.jobs import Job, check_skipped
from rdm_jax.retrieval.manifest import MANIFEST, ManifestDraft, write_manifest
from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions
from rdm_jax.retrieval.parts import RECORD, Workspace, difference
from rdm_jax.retrieval.prepare import Workers

NOTES = "parts"


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """The encoder that each worker loads.

    Attributes:
      bundle: the name of a model, or its folder, which every worker must be able to read.
      batch_size: the number of images that are encoded at once.
    """

    bundle: str
    batch_size: int = 64

    def load(self) -> ClipEncoder:
        """Loads the encoder."""
        return ClipEncoder(Bundle.open(self.bundle, parts=("clip",)), self.batch_size)


@runtime_checkable
class JobSpec(Protocol):
    """A description of a job that is sent to the workers, each of which loads it once."""

    def load(self) -> Job:
        """Loads the encoder and everything else that the job needs."""
        ...


@dataclasses.dataclass(frozen=True)
class BuildSpec:
    """A build job whose encoder each worker loads.

    Attributes:
      source: the images, which every worker must be able to read.
      encoder: the encoder.
      options: what is stored.
    """

    source: ImageSource
    encoder: EncoderSpec
    options: BuildOptions = build.DEFAULT_OPTIONS

    def load(self) -> BuildJob:
        """Loads the encoder; the source is taken as it is, without another selection."""
        return BuildJob(self.source, self.encoder.load(), self.options)


@dataclasses.dataclass(frozen=True)
class NeighborSpec:
    """A neighbor job whose encoder and database each worker loads.

    Attributes:
      source: the examples, which every worker must be able to read.
      encoder: the encoder.
      database: the name, folder or address of the database, which a worker copies to its disk.
      options: which neighbors are computed.
    """

    source: ImageSource
    encoder: EncoderSpec
    database: str
    options: NeighborOptions

    def load(self) -> NeighborJob:
        """Loads the encoder, the database and its index."""
        job = NeighborJob(self.source, self.encoder.load(), Database.open(self.database), self.options)
        _ = job.searcher  # loaded once, before threads share the job
        return job


def build_with_beam(spec: BuildSpec, out: str, *, max_skip: float = 0.05, pipeline_options: Sequence[str] = ()) -> int:
    """Builds a database in a pipeline and returns the number of rows.

    Args:
      spec: the images, the encoder and the options; near-duplicates cannot be omitted.
      out: a folder that all workers can write, or an address in object storage.
      max_skip: the fraction of unreadable images, in [0, 1], above which no database is made of the parts.
      pipeline_options: options of Beam, such as "--runner=DataflowRunner".

    Raises:
      UserError: Beam is not installed, `out` holds something else, too many images are broken, or no row is left.
    """
    if spec.options.duplicates is not None:
        raise UserError("a Beam pipeline builds a database of all images; omit near-duplicates afterwards")
    job = BuildJob.of(spec.source, spec.encoder.load(), spec.options)
    work = _workspace(out, job)
    _run(work, dataclasses.replace(spec, source=job.source), pipeline_options)
    shards, skipped = build.collect_parts(work, job.source.name)
    check_skipped(skipped, len(job.source), len(job.source), job.source.name, max_skip)
    if not isinstance(work, RemoteWorkspace):
        count = build.finish(job, work, paths.local(out)).count
        work.remove()
        return count
    rows = sum(shard.rows for shard in shards)
    description = job.description(spec.options.name or out.rstrip("/").rpartition("/")[2], rows)
    with tempfile.TemporaryDirectory() as folder:
        draft = ManifestDraft(description, {"action": "build", "rows": rows}, skipped)
        write_manifest(Path(folder), shards, draft)
        work.publish(Path(folder))
    return rows


def neighbors_with_beam(
    spec: NeighborSpec, out: str, *, max_skip: float = 0.05, pipeline_options: Sequence[str] = ()
) -> None:
    """Writes the neighbors of a source's examples in a pipeline; the arguments are those of `build_with_beam`.

    Raises:
      UserError: Beam is not installed, `out` holds something else, or encoder, k and database do not fit.
    """
    job = NeighborJob(spec.source, spec.encoder.load(), Database.open(spec.database), spec.options)
    work = _workspace(out, job)
    _run(work, spec, pipeline_options)
    if not isinstance(work, RemoteWorkspace):
        neighbors.finish(job, work, paths.local(out), max_skip)
        return
    manifest = neighbors.collect_parts(job, work, max_skip)
    with tempfile.TemporaryDirectory() as folder:
        sidecar.write_manifest(Path(folder), manifest)
        work.publish(Path(folder))


@dataclasses.dataclass(frozen=True)
class RemoteWorkspace(Workspace):
    """Parts in object storage, in their final place; their notes lie in `parts/` until the manifest is written.

    Attributes:
      address: such as gs://bucket/folder.
    """

    address: str = ""

    @staticmethod
    def at(address: str, record: Mapping[str, Any], count: int) -> RemoteWorkspace:
        """Starts a run at an address, or resumes it; raises UserError if another run is there."""
        work = RemoteWorkspace(Path(), count, address.rstrip("/"))
        if MANIFEST in storage.names(work.address):
            raise UserError(f"{address} exists already; choose another place or remove it first")
        if RECORD not in storage.names(f"{work.address}/{NOTES}"):
            storage.write(f"{work.address}/{NOTES}/{RECORD}", json.dumps(dict(record)).encode())
        begun = json.loads(storage.read(f"{work.address}/{NOTES}/{RECORD}"))
        if differing := difference(begun, record):
            raise UserError(f"{address} holds an unfinished run with another {differing}; remove it or choose another")
        return work

    def done(self) -> list[int]:
        """Returns the numbers of the complete parts."""
        names = set(storage.names(f"{self.address}/{NOTES}"))
        return [number for number in range(self.count) if f"part-{number:05d}.json" in names]

    def notes(self, number: int) -> Any:
        """Returns the notes of a complete part."""
        return json.loads(storage.read(f"{self.address}/{NOTES}/part-{number:05d}.json"))

    def write(self, number: int, make: Callable[[Path], Any]) -> Any:
        """Makes a part in a local folder, copies its files, and then writes its notes."""
        with tempfile.TemporaryDirectory() as folder:
            notes = make(Path(folder))
            for file in sorted(Path(folder).iterdir()):
                storage.put(file, f"{self.address}/{file.name}")
        storage.write(f"{self.address}/{NOTES}/part-{number:05d}.json", json.dumps(notes).encode())
        return notes

    def publish(self, folder: Path) -> None:
        """Copies the other files of the output, the manifest last, and removes the notes."""
        storage.upload(folder, self.address, MANIFEST)
        storage.remove(f"{self.address}/{NOTES}")


def _workspace(out: str, job: Job) -> Workspace:
    if paths.is_remote(out):
        return RemoteWorkspace.at(out, job.record, len(job.parts))
    if paths.local(out).exists():
        raise UserError(f"{out} exists already; choose another folder or remove it first")
    return Workspace.open(paths.local(out), job.record, len(job.parts))


def _run(work: Workspace, spec: JobSpec, pipeline_options: Sequence[str]) -> None:
    """Runs the pipeline over the missing parts."""
    beam, shared, options_class = _beam()
    missing = sorted(set(range(work.count)) - set(work.done()))
    if not missing:
        return
    with beam.Pipeline(options=options_class(list(pipeline_options))) as pipeline:
        numbers = pipeline | "Parts" >> beam.Create(missing) | "Spread" >> beam.Reshuffle()
        _ = numbers | "Make" >> beam.Map(_make_part, work, spec, shared.Shared())


def _make_part(number: int, work: Workspace, spec: JobSpec, cache: Any) -> int:
    """Makes one part; a worker loads the job once and shares it among its threads."""
    loaded = cache.acquire(lambda: _load(spec))
    work.write(number, lambda folder: loaded.job.write_part(folder, number, loaded.workers))
    return number


@dataclasses.dataclass(frozen=True)
class _LoadedJob:
    """A class of its own, because Beam caches it by a weak reference, which tuples do not have."""

    job: Job
    workers: Workers


def _load(spec: JobSpec) -> _LoadedJob:
    job = spec.load()
    return _LoadedJob(job, Workers(job.source, job.preparation, 0))


def _beam() -> tuple[Any, Any, Any]:
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
        from apache_beam.utils import shared  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "Apache Beam is not installed; pip install rdm_jax[beam] in an environment of its own"
        ) from error
    return beam, shared, PipelineOptions
