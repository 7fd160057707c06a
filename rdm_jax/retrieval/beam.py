"""Databases and neighbours made by an Apache Beam pipeline: the one file that imports Beam.

Beam only moves the numbers of parts: a worker makes a part with the same function as the local build, so that the rows
are the same, and writes its files and then its notes to where the parts lie, which may be object storage. A pipeline
that was stopped goes on with the parts that are missing.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rdm_jax.bundle import Bundle
from rdm_jax.core import files, storage
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource, select_examples
from rdm_jax.retrieval import build, neighbors, sidecar
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.embed import check_skipped
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.manifest import MANIFEST, ManifestDraft, write_manifest
from rdm_jax.retrieval.parts import PLAN, Workspace, difference
from rdm_jax.retrieval.prepare import Preparation, Workers

NOTES = "parts"

Make = Callable[[Path, int], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """Which encoder a worker opens.

    Attributes:
      bundle: the model's name, or its folder, which every worker must see.
      batch_size: how many pictures are encoded at once.
    """

    bundle: str
    batch_size: int = 64

    def open(self) -> ClipEncoder:
        """Loads the encoder."""
        return ClipEncoder(Bundle.open(self.bundle, parts=("clip",)), self.batch_size)


@runtime_checkable
class Task(Protocol):
    """What the workers do."""

    def open(self) -> Make:
        """Loads what a worker needs, once, and returns what makes a part in a folder by its number."""
        ...


@dataclasses.dataclass(frozen=True)
class BuildTask:
    """Makes shards of a database.

    Attributes:
      source: the pictures.
      spec: the encoder.
      recipe: how rows are stored.
    """

    source: ImageSource
    spec: EncoderSpec
    recipe: build.Recipe

    def open(self) -> Make:
        """Loads the encoder and returns what makes a shard."""
        encoder = self.spec.open()
        parts = build.part_ranges(len(self.source), self.recipe)
        workers = Workers(self.source, self.recipe.preparation(encoder.image_size), 0)
        return lambda folder, number: build.write_part(
            folder, number, len(parts), parts[number], encoder, self.recipe, workers
        )


@dataclasses.dataclass(frozen=True)
class NeighborsTask:
    """Makes parts of a sidecar.

    Attributes:
      source: the examples.
      spec: the encoder.
      database: the name, folder or address of the database, which a worker copies to its disk.
      plan: which neighbours.
    """

    source: ImageSource
    spec: EncoderSpec
    database: str
    plan: neighbors.Plan

    def open(self) -> Make:
        """Loads encoder, database and index and returns what makes a part."""
        encoder = self.spec.open()
        searcher = neighbors.Searcher.of(Database.open(self.database), self.plan)
        parts = self.plan.parts(self.source)
        workers = Workers(self.source, Preparation(encoder.image_size), 0)
        return lambda folder, number: neighbors.write_part(
            folder, number, len(parts), parts[number], encoder, searcher, workers
        )


def build_with_beam(
    source: ImageSource,
    spec: EncoderSpec,
    out: str,
    recipe: build.Recipe,
    *,
    name: str | None = None,
    max_skip: float = 0.05,
    options: Sequence[str] = (),
) -> int:
    """Builds a database of a source's pictures by a pipeline, and returns how many rows it has.

    Args:
      source: the pictures, which every worker must be able to read.
      spec: the encoder.
      out: a folder that all workers see, or an address in object storage.
      recipe: what is taken and how it is stored.
      name: how the database calls itself; the folder's name if None.
      max_skip: the share of unreadable pictures, in [0, 1], above which no database is made of the parts.
      options: of the pipeline, such as "--runner=DataflowRunner".

    Raises:
      UserError: Beam is not installed, `out` is something else, too many pictures are broken, or none is left.
    """
    encoder = spec.open()
    chosen = select_examples(source, recipe.selection.undecoded(), recipe.limit)
    plan = build.make_plan(chosen, encoder, recipe, None)
    name = name or out.rstrip("/").rpartition("/")[2]
    parts = build.part_ranges(len(chosen), recipe)
    work = _workspace(out, plan, len(parts))
    _run(work, BuildTask(chosen, spec, recipe), options)
    shards, skipped = build.gather_notes(work, chosen.name)
    check_skipped(skipped, len(chosen), len(chosen), chosen.name, max_skip)
    if not isinstance(work, RemoteWorkspace):
        count = build.finish(work, Path(out), chosen, plan, encoder, recipe, name).count
        work.remove()
        return count
    rows = sum(shard.rows for shard in shards)
    told = build.describe(chosen, plan, encoder, recipe, name, rows)
    with tempfile.TemporaryDirectory() as folder:
        draft = ManifestDraft(told, {"action": "build", "rows": rows}, skipped)
        write_manifest(Path(folder), shards, draft)
        work.publish(Path(folder))
    return rows


def neighbors_with_beam(
    source: ImageSource,
    spec: EncoderSpec,
    database: str,
    plan: neighbors.Plan,
    out: str,
    *,
    max_skip: float = 0.05,
    options: Sequence[str] = (),
) -> None:
    """Writes the neighbours of a source's examples by a pipeline; the arguments are those of `build_with_beam`.

    Raises:
      UserError: Beam is not installed, `out` is something else, or encoder, k and database do not fit each other.
    """
    record = neighbors.check(source, spec.open(), Database.open(database), plan)
    work = _workspace(out, record, len(record["part_lengths"]))
    _run(work, NeighborsTask(source, spec, database, plan), options)
    if not isinstance(work, RemoteWorkspace):
        neighbors.finish(work, record, Path(out), max_skip)
        return
    manifest = neighbors.manifest_of(work, record)
    check_skipped(manifest["skipped"], len(source), len(source), source.name, max_skip)
    with tempfile.TemporaryDirectory() as folder:
        files.write_json(Path(folder) / sidecar.MANIFEST, manifest)
        work.publish(Path(folder))


@dataclasses.dataclass(frozen=True)
class RemoteWorkspace(Workspace):
    """Parts in object storage, in their last place; their notes lie in `parts/` until the manifest is written.

    Attributes:
      address: such as gs://bucket/folder.
    """

    address: str = ""

    @staticmethod
    def at(address: str, plan: Mapping[str, Any], count: int) -> RemoteWorkspace:
        """Begins a run at an address, or goes on with the one that is there; raises UserError where it is another."""
        work = RemoteWorkspace(Path(), count, address.rstrip("/"))
        if MANIFEST in storage.names(work.address):
            raise UserError(f"{address} exists already; choose another place or remove it first")
        if PLAN not in storage.names(f"{work.address}/{NOTES}"):
            storage.write(f"{work.address}/{NOTES}/{PLAN}", json.dumps(dict(plan)).encode())
        begun = json.loads(storage.read(f"{work.address}/{NOTES}/{PLAN}"))
        if differing := difference(begun, plan):
            raise UserError(f"{address} holds an unfinished run with another {differing}; remove it or choose another")
        return work

    def done(self) -> list[int]:
        """Returns the numbers of the parts that are there."""
        found = set(storage.names(f"{self.address}/{NOTES}"))
        return [number for number in range(self.count) if f"part-{number:05d}.json" in found]

    def notes(self, number: int) -> Any:
        """Returns what is known of a part that is there."""
        return json.loads(storage.read(f"{self.address}/{NOTES}/part-{number:05d}.json"))

    def write(self, number: int, make: Callable[[Path], Any]) -> Any:
        """Makes a part in a folder of this machine, copies its files, and then its notes."""
        with tempfile.TemporaryDirectory() as folder:
            notes = make(Path(folder))
            for file in sorted(Path(folder).iterdir()):
                storage.put(file, f"{self.address}/{file.name}")
        storage.write(f"{self.address}/{NOTES}/part-{number:05d}.json", json.dumps(notes).encode())
        return notes

    def publish(self, folder: Path) -> None:
        """Copies what stands beside the parts, the manifest last, and removes the notes."""
        storage.upload(folder, self.address, MANIFEST)
        storage.remove(f"{self.address}/{NOTES}")


def _workspace(out: str, plan: Mapping[str, Any], count: int) -> Workspace:
    if storage.is_remote(out):
        return RemoteWorkspace.at(out, plan, count)
    if Path(out).exists():
        raise UserError(f"{out} exists already; choose another folder or remove it first")
    return Workspace.open(Path(out), plan, count)


def _run(work: Workspace, task: Task, options: Sequence[str]) -> None:
    """Runs the pipeline over the parts that are missing."""
    beam, shared, pipeline_options = _beam()
    missing = sorted(set(range(work.count)) - set(work.done()))
    if not missing:
        return
    with beam.Pipeline(options=pipeline_options(list(options))) as pipeline:
        numbers = pipeline | "Parts" >> beam.Create(missing) | "Spread" >> beam.Reshuffle()
        _ = numbers | "Make" >> beam.Map(_make_part, work, task, shared.Shared())


def _make_part(number: int, work: Workspace, task: Task, opened: Any) -> int:
    """Makes one part; encoder, database and index are loaded once in a worker and shared by its threads."""
    make = opened.acquire(task.open)
    work.write(number, lambda folder: make(folder, number))
    return number


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
