"""Databases made of the rows of others: merged, selected, or with rows removed.

All of it is `assemble`: shards that are kept completely are linked, the others are written again without the removed
rows. The index is not carried over, because it would still contain them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import EVERYTHING, Selection
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.duplicates import RowMask, check_threshold, distinct_rows
from rdm_jax.retrieval.manifest import ManifestDraft, inherited, write_manifest
from rdm_jax.retrieval.shards import Shard, ShardContents, write_shard

Piece = tuple[Database, RowMask | None]
"""A database and the mask of its rows that are taken, None for all."""


def merge(
    databases: Sequence[Database],
    out: Path,
    name: str | None = None,
    duplicates: float | None = None,
    weights: Sequence[float] | None = None,
) -> int:
    """Makes one database of the rows of several and returns the number of rows.

    Args:
      databases: databases of one encoder, in the order of their rows.
      out: a folder that does not exist yet.
      name: the name of the new database; the folder's name if None.
      duplicates: omits a row whose cosine to an earlier one is at least this, in (0, 1].
      weights: of each database, above 0: the numbers of their rows are in this proportion, as many as there can be,
        spread evenly over each; None takes all rows.

    Raises:
      UserError: different encoders made them, a weight is not above 0, or `out` exists.
    """
    check_threshold(duplicates)
    _check_new(out)
    for database in databases[1:]:
        database.check_encoder(databases[0].encoder)
    masks = distinct_rows(databases, duplicates) if duplicates is not None else [None] * len(databases)
    if weights is not None:
        masks = _in_proportion(databases, masks, weights)
    licenses = dict.fromkeys(str(database.manifest.get("licence") or "not stated") for database in databases)
    description = {
        **inherited(databases[0].manifest),
        "name": name or out.name,
        "licence": "; ".join(licenses) if len(licenses) > 1 else databases[0].manifest.get("licence", ""),
        "sources": [source for database in databases for source in database.manifest["sources"]],
        "history": [entry for database in databases for entry in database.manifest.get("history", [])],
    }
    action = {"action": "merge", "databases": [database.name for database in databases], "duplicates": duplicates}
    action |= {} if weights is None else {"weights": list(weights)}
    skipped = [line for database in databases for line in database.skipped()]
    return assemble(out, list(zip(databases, masks, strict=True)), ManifestDraft(description, action, skipped))


def _in_proportion(
    databases: Sequence[Database], masks: Sequence[RowMask | None], weights: Sequence[float]
) -> list[RowMask]:
    """Returns the rows of each database, as many as its weight gives it."""
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"weights {', '.join(f'{weight:g}' for weight in weights)}: each must be a number above 0")
    rows = [
        np.flatnonzero(np.ones(len(one), bool) if mask is None else mask)
        for one, mask in zip(databases, masks, strict=True)
    ]
    unit = min(len(found) / weight for found, weight in zip(rows, weights, strict=True))
    chosen = []
    for database, found, weight in zip(databases, rows, weights, strict=True):
        count = max(1, math.floor(unit * weight + 1e-9))
        mask = np.zeros(len(database), bool)
        mask[found[np.arange(count) * len(found) // count]] = True
        chosen.append(mask)
    return chosen


def subset(
    database: Database,
    out: Path,
    selection: Selection = EVERYTHING,
    *,
    limit: int | None = None,
    duplicates: float | None = None,
    name: str | None = None,
) -> int:
    """Makes a database of some rows of another and returns the number of rows.

    Args:
      database: the database to select from.
      out: a folder that does not exist yet.
      selection: the rows to take.
      limit: takes at most this number of rows, the first ones.
      duplicates: omits a row whose cosine to an earlier one is at least this, in (0, 1].
      name: the name of the new database; the folder's name if None.

    Raises:
      UserError: no row is left, or `out` exists.
    """
    check_threshold(duplicates)
    _check_new(out)
    mask = database.mask(selection)
    if limit is not None:
        mask &= np.cumsum(mask) <= limit
    if duplicates is not None:
        mask &= distinct_rows([database], duplicates, mask)[0]
    # A source of which rows are missing may be appended again: it loses the hash by which a build recognizes it.
    sources = [{**source, "plan": ""} for source in database.manifest["sources"]]
    description = {**inherited(database.manifest), "sources": sources, "name": name or out.name}
    action = {"action": "subset", "of": database.name, "selection": selection.record(), "limit": limit}
    action["duplicates"] = duplicates
    return assemble(out, [(database, mask)], ManifestDraft(description, action, database.skipped()))


def remove(database: Database, selection: Selection) -> int:
    """Removes rows with their items, thumbnails and index from a database in place; returns the number of rows removed.

    The manifest records what was removed and when. A reader sees the old database or the new one.

    Raises:
      UserError: the selection admits no row, or every row.
    """
    with files.locked(_lock(database.path), database.path):
        files.forget(database.path)
        _check_unchanged(database)
    removed = np.zeros(len(database), bool)
    if selection.exclude:
        removed = ~database.mask(Selection(exclude=selection.exclude))
    if selection.where:
        removed |= database.mask(Selection(where=selection.where))
    if not removed.any():
        values = database.describe_values(selection)
        raise UserError(
            f"no row of database {database.name!r} fits; nothing is removed{f' ({values})' if values else ''}"
        )
    if removed.all():
        raise UserError(f"every row of database {database.name!r} fits; delete the folder {database.path} instead")
    action = {"action": "remove", "selection": selection.record(), "rows": int(removed.sum())}
    draft = ManifestDraft(inherited(database.manifest), action, database.skipped())
    assemble(database.path, [(database, ~removed)], draft, replace=True)
    return int(removed.sum())


def assemble(out: Path, pieces: Sequence[Piece], draft: ManifestDraft, *, replace: bool = False) -> int:
    """Writes a database of rows of others, completely or not at all, and returns the number of rows.

    Args:
      out: the folder.
      pieces: databases in the order of their rows, each with the mask of the rows to take.
      draft: the contents of the manifest, without the width and the dtype.
      replace: replaces the database in `out`, which is the first piece.

    Raises:
      UserError: no row is left, `out` exists, or it cannot be written.
    """
    shards = [shard for database, mask in pieces for shard in _masked_shards(database, mask)]
    if not shards:
        raise UserError("no row is left; check the selection")
    dtype = max(database.rows.dtype.name for database, _ in pieces)  # float32 represents every float16
    description = {**draft.description, "dtype": dtype, "width": pieces[0][0].width}
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.writing(out.parent))
        if replace:
            stack.enter_context(files.locked(_lock(out), out))
            _check_unchanged(pieces[0][0])
            files.forget(out)
        folder = stack.enter_context(files.new_directory(out, replace=replace))
        written = [shard.write(folder, number, len(shards), dtype) for number, shard in enumerate(shards)]
        write_manifest(folder, written, ManifestDraft(description, draft.action, draft.skipped))
    return sum(shard.rows for shard in written)


@dataclasses.dataclass(frozen=True)
class _MaskedShard:
    """Some rows of a shard of a database."""

    database: Database
    number: int
    mask: RowMask

    def write(self, folder: Path, number: int, count: int, dtype: str) -> Shard:
        """Writes the rows as shard `number` of `count`; links the files if they do not change."""
        if self.mask.all() and self.database.rows.dtype.name == dtype:
            return self.database.shards[self.number].link(folder, number, count)
        items, thumbnails = self.database.shard_contents(self.number)
        rows = np.flatnonzero(self.mask).tolist()
        contents = ShardContents(
            [items[i] for i in rows],
            np.asarray(self.database.rows.shards[self.number][self.mask], np.float32),
            None if thumbnails is None else [thumbnails[i] for i in rows],
        )
        return write_shard(folder, number, count, contents, dtype)


def _masked_shards(database: Database, mask: RowMask | None) -> list[_MaskedShard]:
    ends = np.cumsum([shard.rows for shard in database.shards])[:-1]
    masks = np.split(np.ones(len(database), bool) if mask is None else mask, ends)
    return [_MaskedShard(database, number, mask) for number, mask in enumerate(masks) if mask.any()]


def _lock(out: Path) -> Path:
    out = out.resolve()
    return out.parent / f".{out.name}.lock"


def _check_unchanged(database: Database) -> None:
    if Database.open(database.path).digest != database.digest:
        raise UserError(f"{database.path} was changed by another process meanwhile; run the same command again")


def _check_new(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder or remove it first")
