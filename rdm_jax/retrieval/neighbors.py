"""Neighbours computed ahead of time: one record for each example of a data set, in its order, in ArrayRecord parts.

`sidecar` says what a record holds and reads it. Parts are written into `.NAME.partial` beside the target, each whole or
not at all, so that a killed run goes on where it was; the folder gets its name when all are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import Example, Source
from rdm_jax.retrieval.build import BATCH, load
from rdm_jax.retrieval.database import Database, picture_hash
from rdm_jax.retrieval.encoder import Encoder
from rdm_jax.retrieval.index import ExactIndex, Index, make_index
from rdm_jax.retrieval.sidecar import MANIFEST, SCHEMA, NeighborSidecar, packed, read_manifest

__all__ = ["NeighborSidecar", "Report", "compute_neighbors"]

PLAN = "plan.json"
PART_SIZE = 4096
# Above this cosine a neighbour is the query itself, stored in float16.
SAME = 1.0 - 1e-6

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
      path: the folder of records.
      count: how many records it has.
      resumed: how many of them were there before.
      skipped: one line for each picture that could not be read.
    """

    path: Path
    count: int
    resumed: int
    skipped: list[str]


def compute_neighbors(
    source: Source,
    encoder: Encoder,
    database: Database,
    k: int,
    out: Path,
    *,
    exclude_duplicates: bool = False,
    within: str | None = None,
    max_skip: float = 0.05,
    index: str = "auto",
    part_size: int = PART_SIZE,
    progress: Progress | None = None,
) -> Report:
    """Writes the k nearest rows of a database for each example of a source; goes on with an unfinished run.

    Args:
      source: the examples.
      encoder: the one that made the database.
      database: where the neighbours come from.
      k: how many for each example.
      out: a folder that does not exist yet, or one that a run with the same inputs has finished.
      exclude_duplicates: leave out rows of the same picture: equal pixels, or a cosine above 1 - 1e-6.
      within: an attribute; neighbours carry the same value of it as their example. So a model learns from one
        collection at a time (one artist, one style), which is how a database is chosen when it draws.
      max_skip: the share of unreadable pictures, in [0, 1], above which the run fails.
      index: "auto", "exact" or "scann".
      part_size: how many records a part has.
      progress: called with (examples done, examples in all).

    Raises:
      UserError: `out` holds something else, k does not fit the database, another encoder made it, or too many pictures
        are broken.
    """
    database.check_encoder(encoder.identity)
    if not 1 <= k <= len(database):
        raise UserError(
            f"k {k} is out of range; database {database.name!r} has {len(database)} rows, give 1 to {len(database)}"
        )
    out = Path(out)
    plan = _plan(source, database, k, exclude_duplicates, within, part_size)
    if out.exists():
        manifest = _finished(out, plan)
        return Report(out, len(source), len(source), manifest["skipped"])
    searcher = _Searcher(database, _collections(database, within, index), k, exclude_duplicates, within)
    folder = _working_folder(out, plan)
    starts = range(0, len(source), part_size)
    skipped: list[str] = []
    resumed = 0
    for number, start in enumerate(starts):
        part = folder / _part_name(number, len(starts))
        stop = min(start + part_size, len(source))
        notes = part.with_suffix(".json")
        if part.is_file() and notes.is_file():
            skipped += json.loads(notes.read_text())
            resumed += stop - start
        else:
            broken = _write_part(part, source, range(start, stop), encoder, searcher, progress)
            files.write_json(notes, broken)
            skipped += broken
        if len(skipped) > max_skip * len(source):
            raise UserError(
                f"{len(skipped)} of the first {stop} pictures of {source.name} cannot be read, allowed are "
                f"{max_skip:.1%} of {len(source)}; the first: {skipped[0]}; mend them or allow more by --max-skip"
            )
        if progress:
            progress(stop, len(source))
    _finish(folder, out, plan, len(starts), skipped)
    return Report(out, len(source), resumed, skipped)


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
    values = np.array([str(item["attributes"].get(within)) for item in database.items(range(len(database)))])
    groups = {str(value): np.flatnonzero(values == value) for value in np.unique(values) if value != "None"}
    if not groups:
        raise UserError(f"no row of database {database.name!r} has the attribute {within!r}; see `rdm database info`")
    return {name: _Collection(ids, ExactIndex(database.rows[ids]), len(ids)) for name, ids in groups.items()}


@dataclasses.dataclass(frozen=True)
class _Searcher:
    """Finds the k nearest rows, without a query's own picture where that is asked for."""

    database: Database
    collections: Mapping[str | None, _Collection]
    k: int
    exclude_duplicates: bool
    within: str | None

    def search(self, queries: np.ndarray, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids [q, k] and scores [q, k]."""
        hashes = np.array([picture_hash(one.image) if self.exclude_duplicates else "" for one in examples])
        names = [None if self.within is None else str(one.attributes.get(self.within)) for one in examples]
        ids = np.empty((len(queries), self.k), np.int64)
        scores = np.empty((len(queries), self.k), np.float32)
        for name in dict.fromkeys(names):
            chosen = np.array([i for i, other in enumerate(names) if other == name])
            ids[chosen], scores[chosen] = self._search(self._collection(name), queries[chosen], hashes[chosen])
        return ids, scores

    def _collection(self, name: str | None) -> _Collection:
        collection = self.collections.get(name)
        if collection is None or collection.size < self.k:
            raise UserError(
                f"database {self.database.name!r} has {collection.size if collection else 0} rows with {self.within} "
                f"{name!r}, and {self.k} neighbours are wanted; lower k, or leave {self.within!r} free"
            )
        return collection

    def _search(
        self, collection: _Collection, queries: np.ndarray, hashes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if not self.exclude_duplicates:
            return collection.search(queries, self.k)
        wanted = self.k + 8
        while True:
            wanted = min(wanted, collection.size)
            ids, scores = collection.search(queries, wanted)
            own = np.array([[self._hashes[i] == sha for i in row] for row, sha in zip(ids, hashes, strict=True)])
            kept = ~(own.reshape(ids.shape) | (scores > SAME))
            if (kept.sum(axis=1) >= self.k).all():
                first = np.argsort(~kept, axis=1, kind="stable")[:, : self.k]
                return np.take_along_axis(ids, first, axis=1), np.take_along_axis(scores, first, axis=1)
            if wanted == collection.size:
                raise UserError(
                    f"database {self.database.name!r} has fewer than {self.k} rows for an example when its duplicates "
                    f"are excluded; lower k from {self.k}"
                )
            wanted *= 2

    @functools.cached_property
    def _hashes(self) -> list[str]:
        return self.database.picture_hashes()


def _write_part(
    part: Path, source: Source, indices: range, encoder: Encoder, searcher: _Searcher, progress: Progress | None
) -> list[str]:
    """Writes one part, whole or not at all, and returns one line for each picture that could not be read."""
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = part.with_suffix(".tmp")
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    broken = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(indices.start, indices.stop, BATCH):
            found = list(pool.map(load, itertools.repeat(source), range(start, min(start + BATCH, indices.stop))))
            broken += [str(one) for one in found if isinstance(one, ValueError)]
            for record in _records_of(found, encoder, searcher):
                writer.write(record)
            if progress:
                progress(start + len(found), len(source))
    writer.close()
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    temporary.rename(part)
    return broken


def _records_of(found: Sequence[Example | ValueError], encoder: Encoder, searcher: _Searcher) -> list[bytes]:
    k, width = searcher.k, searcher.database.width
    ids = np.full((len(found), k), -1, np.int64)
    scores = np.zeros((len(found), k), np.float32)
    embeddings = np.zeros((len(found), k, width), np.float16)
    good = [i for i, one in enumerate(found) if isinstance(one, Example)]
    examples = [one for one in found if isinstance(one, Example)]
    if good:
        ids[good], scores[good] = searcher.search(encoder.encode_images([one.image for one in examples]), examples)
        rows = searcher.database.rows[ids[good].reshape(-1)]
        embeddings[good] = rows.astype(np.float16).reshape(len(good), k, width)
    return packed(ids, scores, embeddings)


def _plan(
    source: Source, database: Database, k: int, exclude_duplicates: bool, within: str | None, part_size: int
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "source": {"name": source.name, "fingerprint": source.fingerprint},
        "database": {"name": database.name, "digest": database.digest},
        "encoder": dict(database.encoder),
        "count": len(source),
        "k": k,
        "exclude_duplicates": exclude_duplicates,
        "within": within,
        "part_size": part_size,
    }


def _working_folder(out: Path, plan: Mapping[str, Any]) -> Path:
    folder = out.parent / f".{out.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.glob("neighbors-*.json")):  # no part is finished: nothing is lost
            files.write_json(folder / PLAN, plan)
    except OSError as error:
        raise UserError(
            f"cannot write to {out.parent}: {error.strerror}; choose a folder that can be written"
        ) from error
    begun = json.loads((folder / PLAN).read_text())
    if begun != plan:
        raise UserError(
            f"{folder} holds an unfinished run with another {_difference(begun, plan)}; remove it or choose another "
            "folder"
        )
    return folder


def _finish(folder: Path, out: Path, plan: Mapping[str, Any], parts: int, skipped: list[str]) -> None:
    names = [_part_name(number, parts) for number in range(parts)]
    hashes = {name: files.sha256(folder / name) for name in names}
    files.write_json(folder / MANIFEST, {**plan, "skipped": skipped, "files": hashes})
    for name in (PLAN, *(Path(name).with_suffix(".json").name for name in names)):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    folder.rename(out)


def _finished(out: Path, plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the manifest of a finished run; raises UserError if it was another run."""
    manifest = read_manifest(out)
    if difference := _difference(manifest, plan):
        raise UserError(f"{out} was computed with another {difference}; remove it or choose another folder")
    return manifest


def _difference(made: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    return ", ".join(key for key in plan if key != "part_size" and made.get(key) != plan[key]) or (
        "part size" if "files" not in made and made.get("part_size") != plan["part_size"] else ""
    )


def _part_name(number: int, parts: int) -> str:
    return f"neighbors-{number:05d}-of-{parts:05d}.array_record"
