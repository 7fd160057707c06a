"""Builds a database: images through the encoder into shards, part by part, so that a stopped build resumes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.core import files
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.left_out import of_lines
from rdm_jax.data.examples import ImageSource, select_examples
from rdm_jax.data.selection import EVERYTHING, Selection
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.duplicates import check_threshold, distinct_rows
from rdm_jax.retrieval.edit import assemble
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
from rdm_jax.retrieval.manifest import BUNDLE, DTYPES, MANIFEST, ManifestDraft, inherited, new_manifest
from rdm_jax.retrieval.parts import Workspace, discard
from rdm_jax.retrieval.prepare import Patches, Preparation, Workers
from rdm_jax.retrieval.shards import Shard, ShardContents, write_shard

# A part has at least MIN_PART images, and as many more, up to MAX_PART, as keep the number of parts at PARTS.
MIN_PART, MAX_PART, PARTS = 1024, 2**18, 512


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What a database contains and how it is stored.

    Attributes:
      thumbnail_size: the side of the thumbnails, in pixels.
      quality: of the thumbnails as WebP, 1 to 100; 100 is lossless.
      dtype: of the stored rows, "float16" or "float32".
      patches: the patches to cut from an image; the whole image if None.
      selection: takes only images that it admits.
      limit: takes at most this number of them, the first ones.
      spread: takes at most this number of them, spread evenly.
      license: of the images, for the manifest and as an attribute of images without one.
      part_size: the number of images in a part; chosen from their total if None.
      duplicates: omits a row whose cosine to an earlier one is at least this, in (0, 1]; keeps all rows if None.
      name: the name of the database; the name of its folder if None.
      bundle: the folder of the encoder's bundle, which helps to find it again; "" if it has none. No row depends on it.

    Raises:
      UserError: the dtype is unknown, or a number is out of range.
    """

    thumbnail_size: int = 64
    quality: int = 80
    dtype: str = "float16"
    patches: Patches | None = None
    selection: Selection = EVERYTHING
    limit: int | None = None
    spread: int | None = None
    license: str = ""
    part_size: int | None = None
    duplicates: float | None = None
    name: str | None = None
    bundle: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if self.part_size is not None and self.part_size < 1:
            raise UserError(f"part size {self.part_size} is out of range; give 1 or more images")
        check_threshold(self.duplicates)


DEFAULT_OPTIONS = BuildOptions()


@dataclasses.dataclass(frozen=True)
class BuildJob:
    """The rows of a database that are made of one source.

    Attributes:
      source: the images, all of them; `BuildJob.of` applies the selection and the limit of the options.
      encoder: it embeds the images; the manifest records it.
      options: what is stored.
    """

    source: ImageSource
    encoder: RetrievalEncoder
    options: BuildOptions = DEFAULT_OPTIONS

    @staticmethod
    def of(source: ImageSource, encoder: RetrievalEncoder, options: BuildOptions = DEFAULT_OPTIONS) -> BuildJob:
        """Returns the job for the images that the options select; raises UserError if no image is left."""
        chosen = select_examples(source, options.selection.undecoded(), options.limit, options.spread)
        return BuildJob(chosen, encoder, options)

    @property
    def parts(self) -> Sequence[range]:
        """The numbers of the images of each part."""
        return self._parts

    @functools.cached_property
    def _parts(self) -> Sequence[range]:
        count = len(self.source)
        size = self.options.part_size or min(MAX_PART, max(MIN_PART, -(-count // PARTS)))
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    @property
    def preparation(self) -> Preparation:
        """How an image is prepared for the encoder."""
        options = self.options
        return Preparation(
            self.encoder.image_size, options.thumbnail_size, options.quality, options.patches, options.selection
        )

    @property
    def record(self) -> Mapping[str, Any]:
        """JSON that differs from that of another job if any row, item or thumbnail would differ."""
        options = self.options
        return {
            "source": {"name": self.source.name, "fingerprint": self.source.fingerprint},
            "encoder": dict(self.encoder.identity),
            "patches": options.patches and dataclasses.asdict(options.patches),
            "selection": options.selection.record(),
            "dtype": options.dtype,
            "thumbnails": [options.thumbnail_size, options.quality],
            "licence": options.license,
            "duplicates": options.duplicates,
            "part_size": len(self.parts[0]),
        }

    @property
    def record_hash(self) -> str:
        """A hash of the record without the part size, on which rows do not depend."""
        return files.sha256_json({key: value for key, value in self.record.items() if key != "part_size"})

    def write_part(
        self, folder: Path, number: int, workers: Workers, on_image: PartCallback = ignore_progress
    ) -> dict[str, Any]:
        """Writes the shard of one part and returns its notes: the shard's record, its hashes, and what was skipped."""
        examples, rows, broken = embed_part(self.parts[number], self.encoder, workers, on_image)
        items = [self._with_license(item) for example in examples for item in example.items]
        if not items:
            return {"rows": 0, "names": {}, "hashes": {}, "skipped": broken}
        thumbnails = [thumbnail for example in examples for thumbnail in example.thumbnails or []]
        contents = ShardContents(items, rows, thumbnails)
        shard = write_shard(folder, number, len(self.parts), contents, self.options.dtype)
        return {"rows": shard.rows, "names": dict(shard.names), "hashes": dict(shard.hashes), "skipped": broken}

    def description(self, name: str, rows: int) -> dict[str, Any]:
        """Returns the manifest's description of a new database with this name and number of rows."""
        identity, options = self.encoder.identity, self.options
        source = {
            "name": self.source.name,
            "fingerprint": self.source.fingerprint,
            "captions": self.source.captions,
            "licence": options.license,
            "rows": rows,
            "patches": self.record["patches"],
            "selection": self.record["selection"],
            "plan": self.record_hash,
        }
        return {
            "name": name,
            "width": int(identity["width"]),
            "dtype": options.dtype,
            "encoder": {**identity, "preprocessing": self.encoder.preprocessing},
            **({BUNDLE: options.bundle} if options.bundle else {}),
            "thumbnail_size": options.thumbnail_size,
            "licence": options.license,
            "sources": [source],
        }

    def _with_license(self, item: dict[str, Any]) -> dict[str, Any]:
        if not self.options.license:
            return item
        return {**item, "attributes": {"licence": self.options.license, **item["attributes"]}}


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """The result of a build.

    Attributes:
      count: the number of rows; 0 if parts are missing.
      skipped: one line for each image that could not be read.
      resumed: the number of images that an earlier run had finished.
      duplicates: the number of rows that were omitted as near-duplicates.
      state: "built", "finished before", or "parts missing" if other processes have not made theirs.
    """

    count: int
    skipped: list[str]
    resumed: int = 0
    duplicates: int = 0
    state: str = "built"


def build_database(
    job: BuildJob, out: Path, execution: Execution = DEFAULT_EXECUTION, *, append: bool = False
) -> BuildReport:
    """Builds a database, or resumes an unfinished build of the same job.

    Args:
      job: the images, the encoder and the options.
      out: a folder that does not exist yet, one that the same job has finished, or with `append` a database.
      execution: how the job is run.
      append: adds the rows to the database in `out`, in its dtype.

    Raises:
      UserError: `out` holds something else or cannot be written, another process writes to it, too many images are
        broken, or no row is left.
    """
    out = Path(out)
    files.recover(out)
    existing = Database.open(out) if append and out.exists() else None
    if existing is not None:
        existing.check_encoder(job.encoder.identity)
        job = dataclasses.replace(job, options=dataclasses.replace(job.options, dtype=existing.rows.dtype.name))
    if _contains(out, job):
        discard(out, job.record)
        return _finished_before(out)
    if out.exists() and existing is None:
        raise UserError(
            f"{out} exists already and was not built from these images and options; choose another folder, remove it, "
            "or add to it with --append"
        )
    work = Workspace.open(out, job.record, len(job.parts))
    with work.locked(execution.process):
        resumed = sum(len(job.parts[number]) for number in work.done())
        write_parts(job, work, execution)
        with work.finishing():
            if _contains(out, job):  # another process finished its last part at the same time
                return _finished_before(out)
            if len(work.done()) < work.count:
                return BuildReport(0, [], resumed, state="parts missing")
            _, skipped = collect_parts(work, job.source.name)
            check_skipped(skipped, len(job.source), len(job.source), job.source.name, execution.max_skip)
            if existing is None:
                files.forget(out)
            report = finish(job, work, out, existing)
            work.remove()
    return dataclasses.replace(report, resumed=resumed)


def collect_parts(work: Workspace, name: str) -> tuple[list[Shard], list[str]]:
    """Returns the shards of all parts, and one line for each image that could not be read.

    Raises:
      UserError: there are no rows.
    """
    notes = [work.notes(number) for number in range(work.count)]
    skipped = [line for note in notes for line in note["skipped"]]
    shards = [Shard(work.folder, note["rows"], note["names"], note["hashes"]) for note in notes if note["rows"]]
    if not shards:
        reason = of_lines(skipped) if skipped else "check --where and the exclusions"
        raise UserError(f"no images of {name} are left for a database; {reason}")
    return shards, skipped


def finish(job: BuildJob, work: Workspace, out: Path, existing: Database | None = None) -> BuildReport:
    """Makes the database of all parts.

    Args:
      job: the job whose parts are complete.
      work: the folder of the parts.
      out: the database's folder.
      existing: the database in `out`, which is replaced by one of its rows followed by the new ones.
    """
    shards, skipped = collect_parts(work, job.source.name)
    description = job.description(job.options.name or out.name, sum(shard.rows for shard in shards))
    new = Database.of(work.folder, new_manifest(shards, description))
    databases = [new] if existing is None else [existing, new]
    threshold = job.options.duplicates
    masks = distinct_rows(databases, threshold) if threshold is not None else [None] * len(databases)
    if existing is not None:
        sources = [*existing.manifest["sources"], *description["sources"]]
        bundle = {BUNDLE: job.options.bundle} if job.options.bundle else {}
        description = {**inherited(existing.manifest), **bundle, "sources": sources}
        skipped = existing.skipped() + skipped
    dropped = sum(int((~mask).sum()) for mask in masks if mask is not None)
    action = {"action": "append" if existing else "build", "rows": len(new)}
    if threshold is not None:
        action |= {"duplicates": threshold, "dropped": dropped}
    draft = ManifestDraft(description, action, skipped)
    count = assemble(out, list(zip(databases, masks, strict=True)), draft, replace=existing is not None)
    return BuildReport(count, skipped, duplicates=dropped)


def _contains(out: Path, job: BuildJob) -> bool:
    """Returns whether a database has the rows of a job, whatever the size of their parts."""
    if not (out / MANIFEST).is_file():
        return False
    return any(source.get("plan") == job.record_hash for source in Database.open(out).manifest["sources"])


def _finished_before(out: Path) -> BuildReport:
    database = Database.open(out)
    return BuildReport(len(database), database.skipped(), state="finished before")
