"""Making a database: pictures through the encoder into shards, in parts that a stopped run need not make again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.core import files
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.data.examples import ImageSource, select_examples
from rdm_jax.data.selection import EVERYTHING, Selection
from rdm_jax.retrieval import edit
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.duplicates import check_threshold, distinct_rows
from rdm_jax.retrieval.embed import Progress, Seen, check_skipped, embed_part, unseen, write_parts
from rdm_jax.retrieval.encoder import Encoder
from rdm_jax.retrieval.manifest import DTYPES, MANIFEST, ManifestDraft, inherited, new_manifest
from rdm_jax.retrieval.parts import ALONE, Share, Workspace, discard
from rdm_jax.retrieval.prepare import Patches, Preparation, Workers
from rdm_jax.retrieval.shards import Shard, ShardContents, write_shard

# A part has at least MIN_PART pictures, and as many more as keep the number of parts at PARTS, up to MAX_PART.
MIN_PART, MAX_PART, PARTS = 1024, 2**18, 512


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a database is made like.

    Attributes:
      thumbnail_size: the side of the stored small pictures, in pixels.
      quality: of the small pictures as WebP, 1 to 100; 100 is lossless.
      dtype: of the stored rows, "float16" or "float32".
      patches: what is cut from a picture; None takes it whole.
      selection: takes only pictures that it admits.
      limit: takes so many of them at most, the first.
      licence: of the pictures, for the manifest and as an attribute of those that tell none.
      part_size: pictures in a part; chosen from their number if None.

    Raises:
      UserError: an unknown dtype.
    """

    thumbnail_size: int = 64
    quality: int = 80
    dtype: str = "float16"
    patches: Patches | None = None
    selection: Selection = EVERYTHING
    limit: int | None = None
    licence: str = ""
    part_size: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if self.part_size is not None and self.part_size < 1:
            raise UserError(f"part size {self.part_size} is out of range; give 1 or more pictures")

    def preparation(self, image_size: int) -> Preparation:
        """Returns how an example becomes rows for an encoder of pictures of this size."""
        return Preparation(image_size, self.thumbnail_size, self.quality, self.patches, self.selection)


@dataclasses.dataclass(frozen=True)
class Report:
    """What a build did.

    Attributes:
      path: the database's folder.
      count: how many rows it has; 0 where other processes have not finished their parts.
      skipped: one line for each picture that could not be read.
      resumed: how many pictures were done before.
      duplicates: how many rows were left out as near-duplicates.
      state: "made", "finished before", or "parts missing" where other processes have not done theirs.
    """

    path: Path
    count: int
    skipped: list[str]
    resumed: int = 0
    duplicates: int = 0
    state: str = "made"


def build_database(
    source: ImageSource,
    encoder: Encoder,
    out: Path,
    recipe: Recipe | None = None,
    *,
    name: str | None = None,
    append: bool = False,
    duplicates: float | None = None,
    max_skip: float = 0.05,
    share: Share = ALONE,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Builds a database of a source's pictures; goes on with an unfinished build of the same.

    Args:
      source: the pictures, taken in their order.
      encoder: makes the rows; the manifest names it.
      out: a folder that does not exist yet, that the same call has finished, or with `append` a database.
      recipe: what is taken and how it is stored.
      name: how the database calls itself; the folder's name if None.
      append: adds the pictures to the database that is there.
      duplicates: leaves out a row where the cosine to an earlier one is at least this, in (0, 1].
      max_skip: the share of unreadable pictures, in [0, 1], above which the build fails.
      share: which of several processes, that work on the same folder, this one is.
      workers: processes that decode; chosen from the machine if None, threads of this process if 0.
      progress: called with (pictures done, pictures in all).

    Raises:
      UserError: `out` is something else or cannot be written, another process writes there, too many pictures are
        broken, or none is left.
    """
    out = Path(out)
    recipe = recipe or Recipe()
    check_threshold(duplicates)
    files.recover(out)
    there = Database.open(out) if append and out.exists() else None
    if there is not None:
        there.check_encoder(encoder.identity)
        recipe = dataclasses.replace(recipe, dtype=there.rows.dtype.name)
    chosen = select_examples(source, recipe.selection.undecoded(), recipe.limit)
    plan = make_plan(chosen, encoder, recipe, duplicates)
    if _is_made(out, plan):
        discard(out, plan)
        return _finished_before(out)
    if out.exists() and there is None:
        raise UserError(
            f"{out} exists already and is not of these pictures and options; choose another folder, remove it, or add "
            "to it by --append"
        )
    parts = part_ranges(len(chosen), recipe)
    work = Workspace.open(out, plan, len(parts))
    with work.locked(share):
        resumed = sum(len(parts[number]) for number in work.done())

        def write(folder: Path, number: int, pool: Workers, seen: Seen) -> dict[str, Any]:
            return write_part(folder, number, work.count, parts[number], encoder, recipe, pool, seen)

        preparation = recipe.preparation(encoder.image_size)
        write_parts(work, chosen, parts, preparation, write, max_skip, share, workers, progress)
        with work.finishing():
            if _is_made(out, plan):  # by another process, which had its last part at the same time
                return _finished_before(out)
            if len(work.done()) < work.count:
                return Report(out, 0, [], resumed, state="parts missing")
            check_skipped(gather_notes(work, chosen.name)[1], len(chosen), len(chosen), chosen.name, max_skip)
            if there is None:
                files.forget(out)
            report = finish(work, out, chosen, plan, encoder, recipe, name or out.name, duplicates, there)
            work.remove()
    return dataclasses.replace(report, resumed=resumed)


def make_plan(source: ImageSource, encoder: Encoder, recipe: Recipe, duplicates: float | None) -> dict[str, Any]:
    """Returns JSON that differs wherever two builds would make different rows, items or thumbnails."""
    return {
        "source": {"name": source.name, "fingerprint": source.fingerprint},
        "encoder": dict(encoder.identity),
        "patches": recipe.patches and dataclasses.asdict(recipe.patches),
        "selection": recipe.selection.record(),
        "dtype": recipe.dtype,
        "thumbnails": [recipe.thumbnail_size, recipe.quality],
        "licence": recipe.licence,
        "duplicates": duplicates,
        "part_size": len(part_ranges(len(source), recipe)[0]),
    }


def part_ranges(count: int, recipe: Recipe) -> list[range]:
    """Returns the numbers of the pictures of each part."""
    size = recipe.part_size or min(MAX_PART, max(MIN_PART, -(-count // PARTS)))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def write_part(
    folder: Path,
    number: int,
    of: int,
    indices: Sequence[int],
    encoder: Encoder,
    recipe: Recipe,
    workers: Workers,
    seen: Seen = unseen,
) -> dict[str, Any]:
    """Writes the shard of one part and returns its notes: the shard's record, its hashes, and what was skipped.

    Args:
      folder: where to.
      number: of the part.
      of: how many parts there are.
      indices: the numbers of its pictures.
      encoder: makes the rows.
      recipe: how they are stored.
      workers: prepare the pictures.
      seen: called after each picture with how many of the part are done, and which were broken.
    """
    examples, rows, broken = embed_part(indices, encoder, workers, seen)
    items = [_licensed(item, recipe.licence) for one in examples for item in one.items]
    thumbnails = [thumbnail for one in examples for thumbnail in one.thumbnails or []]
    if not items:
        return {"rows": 0, "names": {}, "hashes": {}, "skipped": broken}
    shard = write_shard(folder, number, of, ShardContents(items, rows, thumbnails), recipe.dtype)
    return {"rows": shard.rows, "names": dict(shard.names), "hashes": dict(shard.hashes), "skipped": broken}


def gather_notes(work: Workspace, name: str) -> tuple[list[Shard], list[str]]:
    """Returns the shards of all parts, and one line for each picture that could not be read.

    Raises:
      UserError: there are no rows.
    """
    notes = [work.notes(number) for number in range(work.count)]
    skipped = [line for note in notes for line in note["skipped"]]
    shards = [Shard(work.folder, note["rows"], note["names"], note["hashes"]) for note in notes if note["rows"]]
    if not shards:
        raise UserError(f"no images of {name} are left to build a database of; see which were skipped")
    return shards, skipped


def describe(
    source: ImageSource, plan: Mapping[str, Any], encoder: Encoder, recipe: Recipe, name: str, rows: int
) -> dict[str, Any]:
    """Returns what the manifest of a new database says beside its shards."""
    return {
        "name": name,
        "width": int(encoder.identity["width"]),
        "dtype": recipe.dtype,
        "encoder": {**encoder.identity, "preprocessing": encoder.preprocessing},
        "thumbnail_size": recipe.thumbnail_size,
        "licence": recipe.licence,
        "sources": [_source_record(source, plan, recipe, rows)],
    }


def finish(
    work: Workspace,
    out: Path,
    source: ImageSource,
    plan: dict[str, Any],
    encoder: Encoder,
    recipe: Recipe,
    name: str,
    duplicates: float | None = None,
    there: Database | None = None,
) -> Report:
    """Makes the database of all parts, behind those of the database that is `there` already.

    Args:
      work: holds the parts.
      out: the database's folder.
      source: where the pictures are from.
      plan: of the parts.
      encoder: that made them.
      recipe: that they were made by.
      name: of the database.
      duplicates: rows with at least this cosine to an earlier one are left out.
      there: is replaced by a database of its rows and the new ones.
    """
    shards, skipped = gather_notes(work, source.name)
    told = describe(source, plan, encoder, recipe, name, sum(shard.rows for shard in shards))
    made = Database.of(work.folder, new_manifest(shards, told))
    pieces = [made] if there is None else [there, made]
    keep = distinct_rows(pieces, duplicates) if duplicates is not None else [None] * len(pieces)
    if there is not None:
        earlier = there.manifest
        told = {**inherited(earlier), "sources": [*earlier["sources"], *told["sources"]]}
        skipped = there.skipped() + skipped
    dropped = sum(int((~mask).sum()) for mask in keep if mask is not None)
    action = {"action": "append" if there else "build", "rows": len(made)}
    if duplicates is not None:
        action |= {"duplicates": duplicates, "dropped": dropped}
    draft = ManifestDraft(told, action, skipped)
    count = edit.assemble(out, list(zip(pieces, keep, strict=True)), draft, replace=there is not None)
    return Report(out, count, skipped, duplicates=dropped)


def _licensed(item: dict[str, Any], licence: str) -> dict[str, Any]:
    return {**item, "attributes": {"licence": licence, **item["attributes"]}} if licence else item


def _source_record(source: ImageSource, plan: Mapping[str, Any], recipe: Recipe, rows: int) -> dict[str, Any]:
    return {
        "name": source.name,
        "fingerprint": source.fingerprint,
        "captions": source.captions,
        "licence": recipe.licence,
        "rows": rows,
        "patches": plan["patches"],
        "selection": plan["selection"],
        "plan": _plan_hash(plan),
    }


def _plan_hash(plan: Mapping[str, Any]) -> str:
    return files.sha256_json({key: value for key, value in plan.items() if key != "part_size"})


def _is_made(out: Path, plan: Mapping[str, Any]) -> bool:
    """Says whether a database has the pictures of a plan; in parts of what size does not matter."""
    if not (out / MANIFEST).is_file():
        return False
    return any(source.get("plan") == _plan_hash(plan) for source in Database.open(out).manifest["sources"])


def _finished_before(out: Path) -> Report:
    database = Database.open(out)
    return Report(out, len(database), database.skipped(), state="finished before")
