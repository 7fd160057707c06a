"""Builds databases and computes neighbors on a cluster: what its workers are sent, what they check and what they write.

A runner (`rdm_jax.retrieval.runners`) only distributes the numbers of parts. A worker runs the same job as the local
build, so that the rows are equal, and writes the files of a part and then its notes to the output, which may be object
storage. A stopped run resumes with the missing parts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rdm_jax.bundle import Bundle
from rdm_jax.core import paths
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.retrieval import build, neighbors, sidecar
from rdm_jax.retrieval.build import BuildJob, BuildOptions, BuildReport, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.jobs import DEFAULT_EXECUTION, Execution, Job, Tally, check_skipped, write_parts
from rdm_jax.retrieval.manifest import ManifestDraft, write_manifest
from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions, NeighborReport, compute_neighbors
from rdm_jax.retrieval.parts import Workspace, difference
from rdm_jax.retrieval.prepare import Workers
from rdm_jax.retrieval.remote_workspace import RemoteWorkspace
from rdm_jax.retrieval.shards import image_hash

SAMPLES = 64  # images that are tried in search of one that can be read
VISIBLE_SECONDS = 90.0  # after which a shared folder shows a new file: NFS keeps a listing for up to 60 s
POLL_SECONDS = 0.5


@runtime_checkable
class Runner(Protocol):
    """The contract of a cluster's runner: it distributes the numbers of parts among workers.

    It is a frozen dataclass whose fields are its options.
    """

    def run(self, make: Callable[[int], int], numbers: Sequence[int]) -> Generator[int, None, None]:
        """Yields the number of each part when a worker has made it; closing the generator stops the work.

        Args:
          make: makes a part by its number, which it returns. It can be pickled, and loads a model when it is first
            called, so that each process of a worker keeps one instance.
          numbers: of the parts.

        Raises:
          UserError: the cluster cannot be used, or `make` has raised it.
        """
        ...


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """The encoder that each worker loads.

    Attributes:
      bundle: the name, the folder or the address of a model, which every worker must be able to read.
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
      database: the name, folder or address of the database; a worker copies one in object storage to its disk.
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


def build_on_cluster(
    job: BuildJob,
    encoder: str,
    out: str,
    runner: Runner,
    execution: Execution = DEFAULT_EXECUTION,
    *,
    append: bool = False,
) -> BuildReport:
    """Builds a database by the workers of a cluster, or resumes an unfinished build of the same job.

    Args:
      job: the images, the encoder and the options.
      encoder: the name, the folder or the address of the encoder's model, which every worker must be able to read.
      out: a folder that all workers can write, or an address in object storage.
      runner: it distributes the parts.
      execution: how the job is run; its writer is replaced.
      append: as in `build_database`.

    Raises:
      UserError: as `build_database` does; the runner is not installed or finds no cluster; a worker cannot read the
        model, the images or the folder; or rows of a database in object storage are to be compared.
    """
    place = encoder if encoder in Bundle.names() else paths.absolute(encoder)

    def describe(job: BuildJob) -> BuildSpec:
        return BuildSpec(job.source, EncoderSpec(place, job.encoder.batch_size), job.options)

    execution = dataclasses.replace(execution, writer=ClusterWriter(runner, describe))
    if not paths.is_remote(out):
        return build_database(job, paths.local(out).absolute(), execution, append=append)
    if append or job.options.duplicates is not None:
        raise UserError(
            f"{out} is in object storage, where a new database of all images is built; append or drop duplicates in a "
            "copy on a local disk"
        )
    return _build_remotely(job, out, execution)


def neighbors_on_cluster(
    job: NeighborJob,
    encoder: str,
    database: str,
    out: str,
    runner: Runner,
    execution: Execution = DEFAULT_EXECUTION,
) -> NeighborReport:
    """Computes neighbors by the workers of a cluster, or resumes an unfinished run of the same job.

    Args:
      job: the examples, the encoder, the database and the options.
      encoder: the name, the folder or the address of the encoder's model, which every worker must be able to read.
      database: that of the database.
      out: a folder that all workers can write, or an address in object storage.
      runner: it distributes the parts.
      execution: how the job is run; its writer is replaced.

    Raises:
      UserError: as `compute_neighbors` does; the runner is not installed or finds no cluster; or a worker cannot read
        the model, the database, the images or the folder.
    """
    place = encoder if encoder in Bundle.names() else paths.absolute(encoder)
    database = database if database in Database.names() else paths.absolute(database)

    def describe(job: NeighborJob) -> NeighborSpec:
        return NeighborSpec(job.source, EncoderSpec(place, job.encoder.batch_size), database, job.options)

    execution = dataclasses.replace(execution, writer=ClusterWriter(runner, describe))
    if not paths.is_remote(out):
        return compute_neighbors(job, paths.local(out).absolute(), execution)
    work = RemoteWorkspace.at(out, job.record, len(job.parts))
    resumed = _write_remotely(job, work, execution)
    if missing := work.count - len(work.done()):
        return NeighborReport(len(job.source), resumed, [], missing)
    manifest = neighbors.collect_parts(job, work, execution.max_skip)
    with tempfile.TemporaryDirectory() as folder:
        sidecar.write_manifest(Path(folder), manifest)
        work.publish(Path(folder))
    return NeighborReport(len(job.source), resumed, manifest["skipped"])


def _build_remotely(job: BuildJob, out: str, execution: Execution) -> BuildReport:
    """Builds a database in object storage, where the parts already lie in their final place."""
    work = RemoteWorkspace.at(out, job.record, len(job.parts))
    resumed = _write_remotely(job, work, execution)
    if len(work.done()) < work.count:
        return BuildReport(0, [], resumed, state="parts missing")
    shards, skipped = build.collect_parts(work, job.source.name)
    check_skipped(skipped, len(job.source), len(job.source), job.source.name, execution.max_skip)
    rows = sum(shard.rows for shard in shards)
    description = job.description(job.options.name or work.address.rpartition("/")[2], rows)
    with tempfile.TemporaryDirectory() as folder:
        draft = ManifestDraft(description, {"action": "build", "rows": rows}, skipped)
        write_manifest(Path(folder), shards, draft)
        work.publish(Path(folder))
    return BuildReport(rows, skipped, resumed)


def _write_remotely(job: Job, work: RemoteWorkspace, execution: Execution) -> int:
    """Writes the missing parts and returns the number of images that an earlier run had finished."""
    resumed = sum(len(job.parts[number]) for number in work.done())
    write_parts(job, work, execution)
    return resumed


@dataclasses.dataclass(frozen=True)
class ClusterWriter:
    """Has parts written by the workers of a cluster.

    Attributes:
      runner: it distributes the parts.
      describe: returns what is sent to the workers of a job.
    """

    runner: Runner
    describe: Callable[[Any], JobSpec]

    def __call__(self, job: Job, work: Workspace, numbers: Sequence[int], tally: Tally) -> None:
        """Writes the parts with these numbers."""
        make = PartMaker(self.describe(job), work, ReadableImage.of(job.source))
        with contextlib.closing(self.runner.run(make, numbers)) as made:
            for number in made:
                tally.add(number, _visible_notes(work, number))


@dataclasses.dataclass(frozen=True)
class ReadableImage:
    """An image of a source that this machine can read: a worker that cannot would leave out all of its images.

    Attributes:
      index: its number.
      sha256: of its pixels.
    """

    index: int
    sha256: str

    @staticmethod
    def of(source: ImageSource) -> ReadableImage | None:
        """Returns one of the first images of a source; None if they are all broken."""
        for index in range(min(SAMPLES, len(source))):
            with contextlib.suppress(ValueError):
                return ReadableImage(index, image_hash(source[index].image))
        return None

    def check(self, source: ImageSource) -> None:
        """Raises UserError if this process reads the image otherwise."""
        try:
            same = image_hash(source[self.index].image) == self.sha256
        except (ValueError, OSError) as error:
            raise UserError(f"it cannot read the images of {source.name} ({error})") from error
        if not same:
            path = source.labels(self.index)["path"]
            raise UserError(f"it reads other pixels of {path} than the machine that started the run")


class PartMaker:
    """Makes a part by its number in a process of a worker, which loads the job when it is first called.

    Args:
      spec: describes the job.
      work: where parts are written.
      readable: an image that the worker must be able to read.
    """

    def __init__(self, spec: JobSpec, work: Workspace, readable: ReadableImage | None) -> None:
        self._spec, self._work, self._readable = spec, work, readable
        self._loaded: Job | None = None
        self._lock = threading.Lock()  # the threads of a worker share the job

    def __reduce__(self) -> tuple[Any, ...]:
        return PartMaker, (self._spec, self._work, self._readable)

    def __call__(self, number: int) -> int:
        """Writes a part and returns its number.

        Raises:
          UserError: this worker cannot read the model, the images or the folder of the parts, or write to it.
        """
        try:
            job = self._job()
            # A thread of its own for each part: one that all parts share would decode for all of them.
            with Workers(job.source, job.preparation, 0) as workers:
                self._work.write(number, lambda folder: job.write_part(folder, number, workers))
        except UserError as error:
            raise UserError(f"a worker on {platform.node()} stopped the run: {error}") from error
        return number

    def _job(self) -> Job:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> Job:
        try:
            begun = self._work.record()
        except UserError as error:
            raise UserError(f"it does not see {self._work.place}; every worker must see it by this path") from error
        try:
            job = self._spec.load()
        except UserError as error:
            raise UserError(
                f"it cannot load the model or the database ({error}); every worker must find them by the same name"
            ) from error
        if self._readable:
            self._readable.check(job.source)
        if differing := difference(begun, job.record):
            raise UserError(f"it has another {differing} by the same name; every worker needs the same files")
        return job


def _visible_notes(work: Workspace, number: int) -> Mapping[str, Any]:
    """Returns the notes of a part that a worker has written, which a shared folder may show late."""
    end = time.monotonic() + VISIBLE_SECONDS
    while True:
        try:
            return work.notes(number)
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"a worker has written part {number}, and {work.place} does not show it; check that all workers "
                    "see this folder, and run the same command again"
                ) from error
            time.sleep(POLL_SECONDS)
