"""A database on disk: embedding rows, captions and thumbnails, opened lazily.

A database is a folder with a manifest (`rdm_jax.retrieval.manifest`), shards (`rdm_jax.retrieval.shards`), and
optionally an index in `index/`.
"""

from __future__ import annotations

import bisect
import dataclasses
import errno
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rdm_jax.core import files, hub, images, paths, storage
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.data.selection import Selection, comparable, is_folder
from rdm_jax.retrieval.manifest import MANIFEST, REPOSITORY, read_manifest, read_skipped, verify_files
from rdm_jax.retrieval.rows import Ids, ShardedRows
from rdm_jax.retrieval.shards import EMBEDDINGS, THUMBNAILS, Shard, damaged
from rdm_jax.retrieval.stored_shard import GRAY, StoredShard

SHOWN_VALUES = 12
EMBEDDED = Path(__file__).parent.parent / "assets" / "databases"


@dataclasses.dataclass(frozen=True)
class Database:
    """Rows with their captions and thumbnails.

    Attributes:
      path: the folder.
      manifest: the contents of manifest.json.
      rows: [n, d] embeddings, memory-mapped.
    """

    path: Path
    manifest: Mapping[str, Any]
    rows: ShardedRows

    @staticmethod
    def names(encoder: str | None = None) -> list[str]:
        """Returns the names of the databases that ship with the package.

        Args:
          encoder: the SHA-256 of an encoder whose databases are wanted; all if None.
        """
        names = sorted(path.parent.name for path in EMBEDDED.glob(f"*/{MANIFEST}"))
        return [name for name in names if encoder in (None, read_manifest(EMBEDDED / name)["encoder"]["sha256"])]

    @staticmethod
    def open(name_or_path: str | Path) -> Database:
        """Opens an embedded database by name or any database by its folder, without reading its rows.

        A database in object storage (gs://bucket/folder), or on the Hugging Face Hub (hf://USER/NAME[@REVISION],
        `core.hub`), is first copied to the local disk, once.

        Raises:
          UserError: there is no such database, or one of its files is missing or does not agree with the manifest.
        """
        path = _locate(name_or_path)
        return Database.of(path, read_manifest(path))

    @staticmethod
    def of(path: Path, manifest: Mapping[str, Any]) -> Database:
        """Returns the database of a folder with this manifest.

        Raises:
          UserError: the rows do not agree with the manifest.
        """
        files.allow_open(len(manifest["shards"]))
        rows = ShardedRows(tuple(_open_shard(path, shard, manifest) for shard in manifest["shards"]))
        if len(rows) != manifest["count"]:
            raise damaged(path, f"{len(rows)} rows of embeddings, and the manifest has a count of {manifest['count']}")
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
            Shard(self.path, int(record["rows"]), names, {name: hashes[name] for name in names.values()})
            for record in self.manifest["shards"]
            for names in [{kind: name for kind, name in record.items() if kind != "rows"}]
        ]

    @functools.cached_property
    def digest(self) -> str:
        """One SHA-256 over the encoder's identity and the hashes of all shards, in order."""
        hashes = [[shard.hashes[name] for name in shard.names.values()] for shard in self.shards]
        return files.sha256_json([dict(self.encoder), hashes])

    def embeddings(self, ids: Ids) -> Float[np.ndarray, "n d"]:
        """Returns rows in float32."""
        return self.rows[self._checked(ids)].astype(np.float32)

    def items(self, ids: Ids) -> list[dict[str, Any]]:
        """Returns row, id, path, caption, sha256 (of the image), box (of the patch, or None) and attributes."""
        return [self._item(int(i)) for i in self._checked(ids)]

    def column(self, key: str) -> Any:
        """Returns a pyarrow array of n texts: a column such as path or caption, or an attribute; null if missing."""
        import pyarrow as pa

        return pa.chunked_array([shard.column(key) for shard in self._stored], pa.string())

    def mask(self, selection: Selection) -> Bool[np.ndarray, " n"]:
        """Returns which rows a selection admits; reads only the columns that it names."""
        admitted = np.ones(len(self), bool)
        for term in selection.where:
            admitted &= self._matches([term])
        for key in dict.fromkeys(key for key, _ in selection.exclude):
            admitted &= ~self._matches([term for term in selection.exclude if term[0] == key])
        return admitted

    def describe_values(self, selection: Selection) -> str:
        """Returns the values of the first attribute that a selection names, most frequent first, for a message."""
        terms = (*selection.where, *selection.exclude)
        key = next((key for key, _ in terms if key not in ("id", "path", "sha256", "caption")), None)
        if key is None:
            return ""
        counts = Counter(value for value in self.column(key).to_pylist() if value is not None)
        values = [value for value, _ in counts.most_common(SHOWN_VALUES)]
        more = ", ..." if len(counts) > len(values) else ""
        return f"{key} is one of {', '.join(values)}{more}" if values else f"no row has {key!r}"

    def _matches(self, terms: Sequence[tuple[str, str]]) -> np.ndarray:
        """Returns for which rows at least one of some terms with the same key is true."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = _comparable(terms[0][0], self.column(terms[0][0]))
        values = pa.array([comparable(*term) for term in terms], pa.string())
        matches = pc.call_function("is_in", [column], pc.SetLookupOptions(values, skip_nulls=True))
        for term in filter(is_folder, terms):
            below = pc.call_function("starts_with", [column], pc.MatchSubstringOptions(comparable(*term)))
            matches = pc.call_function("or", [matches, pc.fill_null(below, False)])
        return np.asarray(matches).astype(bool)

    @property
    def has_thumbnails(self) -> bool:
        """Whether any row has a thumbnail."""
        return any(THUMBNAILS in shard for shard in self.manifest["shards"])

    def thumbnails(self, ids: Ids) -> UInt8[np.ndarray, "n size size 3"]:
        """Returns the thumbnails of rows; gray squares where the database has none."""
        size = int(self.manifest["thumbnail_size"])
        rows = self._checked(ids)
        thumbnails = np.full((len(rows), size, size, 3), GRAY, np.uint8)
        numbers = np.searchsorted(self.rows.ends, rows, side="right")
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            local = (rows[places] - self.rows.starts[number]).tolist()
            for place, image in zip(places, self._stored[number].thumbnails(local), strict=True):
                thumbnails[place] = images.resize_and_crop(image, size)
        return thumbnails

    def shard_contents(self, number: int) -> tuple[list[dict[str, Any]], list[bytes] | None]:
        """Returns all items and all encoded thumbnails (None if there are none) of shard `number`."""
        stored = self._stored[number]
        rows = range(stored.shard.rows)
        return [stored.item(row) for row in rows], stored.records(rows)

    def image_hashes(self) -> list[str]:
        """Returns the sha256 of every row's image."""
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
        verify_files(self.path, self.manifest)

    def skipped(self) -> list[str]:
        """Returns one line for each image of the sources that was omitted, with the reason."""
        return read_skipped(self.path, self.manifest)

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


def _comparable(key: str, column: Any) -> Any:
    """Returns a pyarrow array of the texts of `data.selection.comparable`."""
    import pyarrow.compute as pc

    if key == "path":
        column = pc.call_function("replace_substring", [column], pc.ReplaceSubstringOptions("\\", "/"))
    return pc.call_function("utf8_normalize", [column], pc.Utf8NormalizeOptions("NFC"))


def _locate(name_or_path: str | Path) -> Path:
    if str(name_or_path) in Database.names():
        return EMBEDDED / str(name_or_path)
    if hub.is_address(name_or_path):
        return hub.downloaded(str(name_or_path), REPOSITORY)
    if paths.is_remote(name_or_path):
        return storage.staged(str(name_or_path), MANIFEST)
    path = paths.local(name_or_path)
    files.recover(path)
    if path.is_dir():
        return path
    raise unknown(
        "database", str(name_or_path), Database.names(), hint="or give the folder of a database, or hf://USER/NAME"
    )


def _open_shard(path: Path, record: Mapping[str, Any], manifest: Mapping[str, Any]) -> np.ndarray:
    unlisted = [name for kind, name in record.items() if kind != "rows" and name not in manifest["files"]]
    if unlisted:
        raise damaged(path, f"{unlisted[0]!r} is not among the manifest's files")
    name = record[EMBEDDINGS]
    try:
        shard = np.load(path / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            needed = 2 * len(manifest["shards"])
            raise UserError(
                f"database {path} has {len(manifest['shards'])} shards, each of which is an open file, and the system "
                f"allows this process fewer; raise its limit, as `ulimit -n {needed}` does"
            ) from error
        raise damaged(path, f"{name} cannot be read ({error})") from error
    expected = [record["rows"], manifest["width"]]
    if list(shard.shape) != expected or shard.dtype.name != manifest["dtype"]:
        actual = f"{list(shard.shape)} {shard.dtype.name}"
        raise damaged(path, f"{name} is {actual}, and the manifest has {expected} {manifest['dtype']}")
    return shard


def _short(identity: Mapping[str, Any]) -> str:
    return f"{identity['name']!r} (sha256 {identity['sha256'][:12]}, width {identity['width']})"
