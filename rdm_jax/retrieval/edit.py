"""Databases made of the rows of others: merged, chosen from, without what was to be taken out.

All of it is `assemble`: shards that stay whole are linked, the others are written again without the rows that go; the
index, which would still know them, is left behind.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import EVERYTHING, Selection
from rdm_jax.retrieval.database import MANIFEST, SCHEMA, SKIPPED, Database
from rdm_jax.retrieval.index import Index
from rdm_jax.retrieval.indexing import make_index
from rdm_jax.retrieval.shards import Shard, write_shard

QUERIES = 256
FIRST_NEIGHBORS = 16

Keep = Bool[np.ndarray, " _"]


def merge(databases: Sequence[Database], out: Path, name: str | None = None, duplicates: float | None = None) -> int:
    """Makes one database of the rows of several and returns how many there are.

    Args:
      databases: of one encoder, in the order in which their rows will lie.
      out: a folder that does not exist yet.
      name: how the database calls itself; the folder's name if None.
      duplicates: leaves out a row where the cosine to an earlier one is at least this, in (0, 1].

    Raises:
      UserError: different encoders made them, or `out` exists.
    """
    check_threshold(duplicates)
    _check_new(out)
    for database in databases[1:]:
        database.check_encoder(databases[0].encoder)
    keep = distinct(databases, duplicates) if duplicates is not None else [None] * len(databases)
    licences = dict.fromkeys(str(database.manifest.get("licence") or "not stated") for database in databases)
    told = {
        **carried(databases[0].manifest),
        "name": name or out.name,
        "licence": "; ".join(licences) if len(licences) > 1 else databases[0].manifest.get("licence", ""),
        "sources": [source for database in databases for source in database.manifest["sources"]],
        "history": [entry for database in databases for entry in database.manifest.get("history", [])],
    }
    action = {"action": "merge", "databases": [database.name for database in databases], "duplicates": duplicates}
    skipped = [line for database in databases for line in database.skipped()]
    return assemble(out, list(zip(databases, keep, strict=True)), told, action, skipped)


def subset(
    database: Database,
    out: Path,
    selection: Selection = EVERYTHING,
    *,
    limit: int | None = None,
    duplicates: float | None = None,
    name: str | None = None,
) -> int:
    """Makes a database of some rows of another and returns how many there are.

    Args:
      database: where the rows are from.
      out: a folder that does not exist yet.
      selection: which are taken.
      limit: takes so many of them at most, the first.
      duplicates: leaves out a row where the cosine to an earlier one is at least this, in (0, 1].
      name: how the database calls itself; the folder's name if None.

    Raises:
      UserError: no row is left, or `out` exists.
    """
    check_threshold(duplicates)
    _check_new(out)
    keep = database.mask(selection)
    if limit is not None:
        keep &= np.cumsum(keep) <= limit
    if duplicates is not None:
        keep &= distinct([database], duplicates, keep)[0]
    # A source of which rows are missing may be appended as a whole: it is no longer known by its plan.
    sources = [{**source, "plan": ""} for source in database.manifest["sources"]]
    told = {**carried(database.manifest), "sources": sources, "name": name or out.name}
    action = {"action": "subset", "of": database.name, "selection": selection.record(), "limit": limit}
    action["duplicates"] = duplicates
    return assemble(out, [(database, keep)], told, action, database.skipped())


def remove(database: Database, selection: Selection) -> int:
    """Takes rows out of a database in its place: rows, what is told of them, thumbnails and index; returns how many.

    The manifest says what was taken out and when. A reader sees the old database or the new one.

    Raises:
      UserError: nothing fits, or everything does.
    """
    with files.locked(_lock(database.path), database.path):
        files.forget(database.path)
        _check_unchanged(database)
    gone = ~database.mask(Selection(exclude=selection.exclude)) if selection.exclude else np.zeros(len(database), bool)
    if selection.where:
        gone |= database.mask(Selection(where=selection.where))
    if not gone.any():
        known = database.known(selection)
        raise UserError(
            f"no row of database {database.name!r} fits; nothing is removed{f' ({known})' if known else ''}"
        )
    if gone.all():
        raise UserError(f"every row of database {database.name!r} fits; delete the folder {database.path} instead")
    action = {"action": "remove", "selection": selection.record(), "rows": int(gone.sum())}
    told = carried(database.manifest)
    assemble(database.path, [(database, ~gone)], told, action, database.skipped(), replace=True)
    return int(gone.sum())


def distinct(databases: Sequence[Database], threshold: float, among: Keep | None = None) -> list[Keep]:
    """Returns which rows stay where each one that is near to an earlier kept one goes, exactly where the index is.

    Args:
      databases: taken as one, in their order.
      threshold: rows of at least this cosine are the same.
      among: of a single database, the rows that are looked at; all if None.
    """
    indexes = [make_index(database) for database in databases]
    ends = np.cumsum([len(database) for database in databases])
    kept = np.ones(int(ends[-1]), bool) if among is None else among.copy()
    for number, database in enumerate(databases):
        first = int(ends[number]) - len(database)
        for start in range(0, len(database), QUERIES):
            queries = database.rows[start : start + QUERIES]
            near = [
                (int(ends[other]) - len(databases[other]), _near(indexes[other], databases[other], queries, threshold))
                for other in range(number + 1)
            ]
            for place in range(len(queries)):
                row = first + start + place
                earlier = np.concatenate([offset + lists[place] for offset, lists in near])
                kept[row] &= not kept[earlier[earlier < row]].any()
    return [kept[int(end) - len(database) : int(end)] for end, database in zip(ends, databases, strict=True)]


def _near(index: Index, database: Database, queries: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Returns all rows of a database that are at least so near to each query."""
    found: list[np.ndarray] = [np.zeros(0, np.int64)] * len(queries)
    open_ = np.arange(len(queries))
    k = min(FIRST_NEIGHBORS, len(database))
    while len(open_):
        ids, scores = index.search(queries[open_], k)
        for place, row_ids, row_scores in zip(open_, ids, scores, strict=True):
            found[place] = row_ids[row_scores >= threshold]
        open_ = open_[scores[:, -1] >= threshold] if k < len(database) else open_[:0]
        k = min(4 * k, len(database))
    return found


def check_threshold(duplicates: float | None) -> None:
    """Raises UserError where a cosine from which rows are duplicates is out of range."""
    if duplicates is not None and not 0 < duplicates <= 1:
        raise UserError(f"duplicates {duplicates} is no cosine in (0, 1]; try 0.97")


def carried(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a manifest says that stays true of a database made from this one."""
    keys = ("name", "encoder", "thumbnail_size", "licence", "sources", "history", "created")
    return {key: manifest[key] for key in keys if key in manifest}


def gather(folder: Path, shards: Sequence[Shard], told: Mapping[str, Any]) -> Database:
    """Returns the database of shards that lie in a folder without a manifest."""
    return Database.of(folder, _manifest(shards, told))


def assemble(
    out: Path,
    pieces: Sequence[tuple[Database, Keep | None]],
    told: Mapping[str, Any],
    action: Mapping[str, Any],
    skipped: Sequence[str] = (),
    *,
    replace: bool = False,
) -> int:
    """Writes a database of chosen rows of others, whole or not at all, and returns how many it has.

    Args:
      out: the folder.
      pieces: databases in the order of their rows, each with the rows that are taken, None for all.
      told: the manifest's name, encoder, thumbnail_size, licence, sources and history, and `created` to keep it.
      action: what is done, the next entry of the history.
      skipped: one line for each picture of the sources that could not be read.
      replace: takes the place of the database that is there.

    Raises:
      UserError: no row is left, `out` exists, or it cannot be written.
    """
    chosen = [piece for database, keep in pieces for piece in _shards_of(database, keep)]
    if not chosen:
        raise UserError("no row is left; check the selection")
    dtype = max(database.rows.dtype.name for database, _ in pieces)  # float32 holds what float16 does
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.writing(out.parent))
        if replace:
            stack.enter_context(files.locked(_lock(out), out))
            _check_unchanged(pieces[0][0])
            files.forget(out)
        folder = stack.enter_context(files.new_directory(out, replace=replace))
        shards = [_placed(folder, number, len(chosen), *piece, dtype) for number, piece in enumerate(chosen)]
        seal(folder, shards, {**told, "dtype": dtype, "width": pieces[0][0].width}, action, skipped)
    return sum(shard.rows for shard in shards)


def seal(
    folder: Path,
    shards: Sequence[Shard],
    told: Mapping[str, Any],
    action: Mapping[str, Any],
    skipped: Sequence[str] = (),
) -> None:
    """Writes the manifest that makes a database of shards in a folder; `assemble` says what it takes.

    `told` holds the width and the dtype of the rows too.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    history = [*told.get("history", []), {**action, "date": now}]
    manifest = _manifest(shards, {"created": now, **told, "history": history})
    if skipped:
        (folder / SKIPPED).write_text("".join(json.dumps(line) + "\n" for line in skipped))
        manifest["files"][SKIPPED] = files.sha256(folder / SKIPPED)
    files.write_json(folder / MANIFEST, manifest)


def _lock(out: Path) -> Path:
    out = out.resolve()
    return out.parent / f".{out.name}.lock"


def _check_unchanged(database: Database) -> None:
    if Database.open(database.path).digest != database.digest:
        raise UserError(f"{database.path} was changed by another process meanwhile; run the same again")


def _check_new(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder or remove it first")


def _shards_of(database: Database, keep: Keep | None) -> list[tuple[Database, int, Keep]]:
    ends = np.cumsum([shard.rows for shard in database.shards])[:-1]
    masks = np.split(np.ones(len(database), bool) if keep is None else keep, ends)
    return [(database, number, mask) for number, mask in enumerate(masks) if mask.any()]


def _placed(folder: Path, number: int, of: int, database: Database, shard: int, keep: Keep, dtype: str) -> Shard:
    if keep.all() and database.rows.dtype.name == dtype:
        return database.shards[shard].link(folder, number, of)
    items, thumbnails = database.shard_contents(shard)
    chosen = np.flatnonzero(keep).tolist()
    return write_shard(
        folder,
        number,
        of,
        [items[i] for i in chosen],
        np.asarray(database.rows.shards[shard][keep], np.float32),
        None if thumbnails is None else [thumbnails[i] for i in chosen],
        dtype,
    )


def _manifest(shards: Sequence[Shard], told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": told["name"],
        "count": sum(shard.rows for shard in shards),
        **{key: value for key, value in told.items() if key != "name"},
        "shards": [shard.record() for shard in shards],
        "files": {name: value for shard in shards for name, value in shard.hashes.items()},
    }
