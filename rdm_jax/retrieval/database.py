"""A database on disk: embedding rows, captions and thumbnails, opened lazily, with a manifest that names its encoder.

A folder of `manifest.json` (schema, name, count, width, dtype, encoder and its preprocessing, sources, licence, when it
was made, what was excluded, shards, SHA-256 of each file), of shards (`rdm_jax.retrieval.shards`), and of `index/`
where there is one.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rdm_jax.core import files, images, storage
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.data.selection import Selection, is_folder
from rdm_jax.retrieval.rows import Ids, ShardedRows
from rdm_jax.retrieval.shards import EMBEDDINGS, ITEMS, THUMBNAILS, Shard
from rdm_jax.retrieval.stored_shard import GREY, StoredShard, damaged

SCHEMA = 2
SHOWN_VALUES = 12
MANIFEST = "manifest.json"
SKIPPED = "skipped.jsonl"
DTYPES = ("float16", "float32")
EMBEDDED = Path(__file__).parent.parent / "assets" / "databases"
NEEDED = {
    "name": str,
    "count": int,
    "width": int,
    "dtype": str,
    "encoder": dict,
    "sources": list,
    "shards": list,
    "files": dict,
    "thumbnail_size": int,
}


@dataclasses.dataclass(frozen=True)
class Database:
    """A folder of rows with their captions and thumbnails.

    Attributes:
      path: the folder.
      manifest: what manifest.json holds.
      rows: [n, d] embeddings, memory-mapped.
    """

    path: Path
    manifest: Mapping[str, Any]
    rows: ShardedRows

    @staticmethod
    def names() -> list[str]:
        """Returns the names of the databases that ship with the package."""
        return sorted(path.parent.name for path in EMBEDDED.glob(f"*/{MANIFEST}"))

    @staticmethod
    def open(name_or_path: str | Path) -> Database:
        """Opens an embedded database by its name or any database by its folder, without reading its rows.

        A place in object storage (gs://bucket/folder) is copied to the local disk first, once.

        Raises:
          UserError: there is no such database, or a file of it is missing or does not fit the manifest.
        """
        path = _locate(name_or_path)
        manifest = _read_manifest(path)
        present = {entry.name for entry in path.iterdir()}
        for name in manifest["files"]:
            if Path(name).name != name:
                raise damaged(path, f"{MANIFEST} names {name!r}, which is not a file of its folder")
            if name not in present:
                raise damaged(path, f"{name} is missing")
        index = manifest.get("index", {})
        for name in [*index.get("shards", []), *index.get("files", {})]:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise damaged(path, f"{MANIFEST} names {name!r}, which is not a file of its index")
        return Database.of(path, manifest)

    @staticmethod
    def of(path: Path, manifest: Mapping[str, Any]) -> Database:
        """Returns the database of a folder whose manifest is known.

        Raises:
          UserError: the rows do not fit the manifest.
        """
        rows = ShardedRows(tuple(_open_shard(path, shard, manifest) for shard in manifest["shards"]))
        if len(rows) != manifest["count"]:
            raise damaged(path, f"{len(rows)} rows of embeddings, and the manifest says {manifest['count']}")
        return Database(path, manifest, rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return Database.open, (self.path,)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """The database's name."""
        return str(self.manifest["name"])

    @property
    def width(self) -> int:
        """The length of a row."""
        return int(self.manifest["width"])

    @property
    def encoder(self) -> Mapping[str, Any]:
        """The identity of the encoder that made the rows: name, SHA-256 of the weights, width."""
        return self.manifest["encoder"]

    @property
    def shards(self) -> list[Shard]:
        """The shards, in the order of their rows."""
        hashes = self.manifest["files"]
        return [
            Shard(self.path, int(told["rows"]), names, {name: hashes[name] for name in names.values()})
            for told in self.manifest["shards"]
            for names in [{kind: name for kind, name in told.items() if kind != "rows"}]
        ]

    @functools.cached_property
    def digest(self) -> str:
        """One SHA-256 over the encoder's identity and the hashes of all shards, in their order."""
        hashes = [[shard.hashes[name] for name in shard.names.values()] for shard in self.shards]
        return files.sha256_json([dict(self.encoder), hashes])

    def embeddings(self, ids: Ids) -> Float[np.ndarray, "n d"]:
        """Returns rows in float32."""
        return self.rows[self._checked(ids)].astype(np.float32)

    def items(self, ids: Ids) -> list[dict[str, Any]]:
        """Returns row, id, path, caption, sha256 (of the picture), box (of the patch, or None) and attributes."""
        return [self._item(int(i)) for i in self._checked(ids)]

    def column(self, key: str) -> Any:
        """Returns a pyarrow array of n texts, null where there is none: of path, caption, ..., or of an attribute."""
        import pyarrow as pa

        return pa.chunked_array([table.column(key) for table in self._stored], pa.string())

    def mask(self, selection: Selection) -> Bool[np.ndarray, " n"]:
        """Returns which rows a selection admits, read from the columns that it names alone."""
        admitted = np.ones(len(self), bool)
        for term in selection.where:
            admitted &= self._holding([term])
        for key in dict.fromkeys(key for key, _ in selection.exclude):
            admitted &= ~self._holding([term for term in selection.exclude if term[0] == key])
        return admitted

    def known(self, selection: Selection) -> str:
        """Returns what values there are of the first attribute that a selection names, the most frequent first."""
        terms = (*selection.where, *selection.exclude)
        key = next((key for key, _ in terms if key not in ("id", "path", "sha256", "caption")), None)
        if key is None:
            return ""
        counted = Counter(value for value in self.column(key).to_pylist() if value is not None)
        values = [value for value, _ in counted.most_common(SHOWN_VALUES)]
        more = ", ..." if len(counted) > len(values) else ""
        return f"{key} is one of {', '.join(values)}{more}" if values else f"no row has {key!r}"

    def _holding(self, terms: Sequence[tuple[str, str]]) -> np.ndarray:
        """Returns which rows one of some terms of one key is true of."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.column(terms[0][0])
        values = pa.array([value for _, value in terms], pa.string())
        found = pc.call_function("is_in", [column], pc.SetLookupOptions(values, skip_nulls=True))
        for term in filter(is_folder, terms):
            found = pc.call_function(
                "or",
                [
                    found,
                    pc.fill_null(pc.call_function("starts_with", [column], pc.MatchSubstringOptions(term[1])), False),
                ],
            )
        return np.asarray(found).astype(bool)

    @property
    def has_thumbnails(self) -> bool:
        """Whether any row's picture is there."""
        return any(THUMBNAILS in shard for shard in self.manifest["shards"])

    def thumbnails(self, ids: Ids) -> UInt8[np.ndarray, "n size size 3"]:
        """Returns the small pictures of rows; grey squares where the database has none."""
        size = int(self.manifest["thumbnail_size"])
        wanted = self._checked(ids)
        pictures = np.full((len(wanted), size, size, 3), GREY, np.uint8)
        which = np.searchsorted(self.rows.ends, wanted, side="right")
        for number in np.unique(which):
            shard = self._stored[number]
            places = np.flatnonzero(which == number)
            local = (wanted[places] - self.rows.starts[number]).tolist()
            for place, data in zip(places, shard.thumbnails(local), strict=True):
                pictures[place] = images.resize_and_crop(data, size)
        return pictures

    def shard_contents(self, number: int) -> tuple[list[dict[str, Any]], list[bytes] | None]:
        """Returns all items and all encoded thumbnails (None if there are none) of shard `number`."""
        stored = self._stored[number]
        rows = range(stored.shard.rows)
        return [stored.item(row) for row in rows], stored.records(rows)

    def picture_hashes(self) -> list[str]:
        """Returns the sha256 of every row's picture."""
        return self.column("sha256").to_pylist()

    def check_encoder(self, identity: Mapping[str, Any]) -> None:
        """Raises UserError unless the encoder is the one that made the rows: the same weights and width."""
        if any(identity[key] != self.encoder[key] for key in ("sha256", "width")):
            raise UserError(
                f"database {self.name!r} was made by encoder {_short(self.encoder)}, and this is {_short(identity)}; "
                "build the database again with this encoder or choose another database"
            )

    def verify(self) -> None:
        """Reads every file and compares its SHA-256 with the manifest; raises UserError for a damaged database."""
        index = {f"index/{name}": value for name, value in self.manifest.get("index", {}).get("files", {}).items()}
        for name, expected in {**self.manifest["files"], **index}.items():
            if not (self.path / name).is_file() or files.sha256(self.path / name) != expected:
                raise damaged(self.path, f"the SHA-256 of {name} is not the one in {MANIFEST}")

    def skipped(self) -> list[str]:
        """Returns one line for each picture of the sources that was left out, with the reason."""
        if SKIPPED not in self.manifest["files"]:
            return []
        return [json.loads(line) for line in (self.path / SKIPPED).read_text().splitlines()]

    def _checked(self, ids: Ids) -> np.ndarray:
        ids = np.asarray(ids, np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise UserError(
                f"row {ids.min() if ids.min() < 0 else ids.max()} is not in database {self.name!r}; "
                f"rows go from 0 to {len(self) - 1}"
            )
        return ids

    def _item(self, row: int) -> dict[str, Any]:
        number = bisect.bisect_right(self.rows.ends, row)
        return {"row": row, **self._stored[number].item(row - self.rows.starts[number])}

    @functools.cached_property
    def _stored(self) -> list[StoredShard]:
        return [StoredShard(shard) for shard in self.shards]


def _locate(name_or_path: str | Path) -> Path:
    if str(name_or_path) in Database.names():
        return EMBEDDED / str(name_or_path)
    if storage.is_remote(name_or_path):
        return storage.staged(str(name_or_path), MANIFEST)
    path = Path(name_or_path).expanduser()
    files.recover(path)
    if path.is_dir():
        return path
    raise unknown("database", str(name_or_path), Database.names(), hint="or give the folder of a database")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is no database: it has no {MANIFEST}; make one by rdm database build") from error
    except (OSError, ValueError) as error:
        raise damaged(path, f"{MANIFEST} cannot be read ({error})") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise UserError(f"database {path} has schema {schema!r}, and this version reads {SCHEMA}; build it again")
    missing = [key for key, kind in NEEDED.items() if not isinstance(manifest.get(key), kind)]
    if missing:
        raise damaged(path, f"{MANIFEST} lacks {', '.join(missing)}, or says something else in their place")
    if not {"name", "sha256", "width"} <= manifest["encoder"].keys():
        raise damaged(path, f"{MANIFEST} does not say by name, sha256 and width which encoder made the rows")
    shards = manifest["shards"]
    if not shards or not all(isinstance(one, dict) and {"rows", EMBEDDINGS, ITEMS} <= one.keys() for one in shards):
        raise damaged(path, f"{MANIFEST} has no shards, or some without rows, {EMBEDDINGS} and {ITEMS}")
    return manifest


def _open_shard(path: Path, told: Mapping[str, Any], manifest: Mapping[str, Any]) -> np.ndarray:
    unlisted = [name for kind, name in told.items() if kind != "rows" and name not in manifest["files"]]
    if unlisted:
        raise damaged(path, f"{unlisted[0]!r} is not among the manifest's files")
    name = told[EMBEDDINGS]
    try:
        shard = np.load(path / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise damaged(path, f"{name} cannot be read ({error})") from error
    expected = [told["rows"], manifest["width"]]
    if list(shard.shape) != expected or shard.dtype.name != manifest["dtype"]:
        said = f"{expected} {manifest['dtype']}"
        raise damaged(path, f"{name} is {list(shard.shape)} {shard.dtype.name}, and the manifest says {said}")
    return shard


def _short(identity: Mapping[str, Any]) -> str:
    return f"{identity['name']!r} (sha256 {identity['sha256'][:12]}, width {identity['width']})"
