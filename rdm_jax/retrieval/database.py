"""A database on disk: embedding rows, captions and thumbnails, opened lazily, with a manifest that names its encoder.

manifest.json              schema, name, count, width, dtype, encoder, source, shards, SHA-256 of each file
embeddings-00000.npy ...   rows as the encoder gave them, not normalised; memory-mapped
items.parquet              id, path, caption, attributes (JSON), sha256 of the picture
thumbnails.array_record    one WebP for each row; not there where the rows were imported without their pictures
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from rdm_jax.core import files, images
from rdm_jax.core.errors import UserError, unknown

SCHEMA = 1
MANIFEST = "manifest.json"
ITEMS = "items.parquet"
THUMBNAILS = "thumbnails.array_record"
DTYPES = ("float16", "float32")
EMBEDDED = Path(__file__).parent.parent / "assets" / "databases"
CACHED_GROUPS = 64
GREY = 200

Ids = Sequence[int] | Integer[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Embedding shards as one array [n, d]; nothing is read before it is asked for."""

    shards: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return sum(len(shard) for shard in self.shards), self.shards[0].shape[1]

    @property
    def dtype(self) -> np.dtype:
        """float16 or float32."""
        return self.shards[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | Ids) -> np.ndarray:
        """Returns the rows of a slice without a step, or of ids, copied into memory."""
        if isinstance(key, slice):
            start, stop, _ = key.indices(len(self))
            return self._span(start, stop)
        ids = np.asarray(key, np.int64)
        which = np.searchsorted(self._ends, ids, side="right")
        out = np.empty((len(ids), self.shape[1]), self.dtype)
        for number in np.unique(which):
            chosen = which == number
            out[chosen] = self.shards[number][ids[chosen] - self._starts[number]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def _span(self, start: int, stop: int) -> np.ndarray:
        first = bisect.bisect_right(self._ends, start)
        parts = [np.empty((0, self.shape[1]), self.dtype)]
        for shard, offset in zip(self.shards[first:], self._starts[first:], strict=True):
            if offset >= stop:
                break
            parts.append(shard[max(0, start - offset) : stop - offset])
        return np.concatenate(parts)

    @functools.cached_property
    def _ends(self) -> list[int]:
        return np.cumsum([len(shard) for shard in self.shards]).tolist()

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [0, *self._ends[:-1]]


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
    rows: Rows

    @staticmethod
    def names() -> list[str]:
        """Returns the names of the databases that ship with the package."""
        return sorted(path.parent.name for path in EMBEDDED.glob(f"*/{MANIFEST}"))

    @staticmethod
    def open(name_or_path: str | Path) -> Database:
        """Opens an embedded database by its name or any database by its folder, without reading its rows.

        Raises:
          UserError: there is no such database, or a file of it is missing or does not fit the manifest.
        """
        path = _locate(name_or_path)
        manifest = _read_manifest(path)
        for name in manifest["files"]:
            if not (path / name).is_file():
                raise _damaged(path, f"{name} is missing")
        rows = Rows(tuple(_open_shard(path, name, manifest) for name in manifest["shards"]))
        if len(rows) != manifest["count"]:
            raise _damaged(path, f"{len(rows)} rows of embeddings, and the manifest says {manifest['count']}")
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

    @functools.cached_property
    def digest(self) -> str:
        """One SHA-256 over the encoder's identity and the hashes of all files."""
        return files.sha256_json({key: self.manifest[key] for key in ("encoder", "files")})

    def embeddings(self, ids: Ids) -> Float[np.ndarray, "n d"]:
        """Returns rows in float32."""
        return self.rows[self._checked(ids)].astype(np.float32)

    def items(self, ids: Ids) -> list[dict[str, Any]]:
        """Returns id, path, caption, attributes (a dictionary) and sha256 (of the picture) of rows."""
        return [self._item(int(i)) for i in self._checked(ids)]

    @property
    def has_thumbnails(self) -> bool:
        """Whether the rows' pictures are there."""
        return THUMBNAILS in self.manifest["files"]

    def thumbnails(self, ids: Ids) -> UInt8[np.ndarray, "n size size 3"]:
        """Returns the small pictures of rows; grey squares where the database has none."""
        size = int(self.manifest["thumbnail_size"])
        wanted = self._checked(ids).tolist()
        if not self.has_thumbnails:
            return np.full((len(wanted), size, size, 3), GREY, np.uint8)
        try:
            pictures = [images.decode(data) for data in self._thumbnails.read(wanted)] if wanted else []
        except (ValueError, RuntimeError, IndexError) as error:
            raise _damaged(self.path, f"{THUMBNAILS} cannot be read ({error})") from error
        return np.stack(pictures) if pictures else np.zeros((0, size, size, 3), np.uint8)

    def picture_hashes(self) -> list[str]:
        """Returns the sha256 of every row's picture."""
        return self._parquet.read(columns=["sha256"]).column("sha256").to_pylist()

    def check_encoder(self, identity: Mapping[str, Any]) -> None:
        """Raises UserError unless the encoder is the one that made the rows: the same weights and width."""
        if any(identity[key] != self.encoder[key] for key in ("sha256", "width")):
            raise UserError(
                f"database {self.name!r} was made by encoder {_short(self.encoder)}, and this is {_short(identity)}; "
                "build the database again with this encoder or choose another database"
            )

    def verify(self) -> None:
        """Reads every file and compares its SHA-256 with the manifest; raises UserError for a damaged database."""
        for name, expected in self.manifest["files"].items():
            if files.sha256(self.path / name) != expected:
                raise _damaged(self.path, f"the SHA-256 of {name} is not the one in {MANIFEST}")

    def _checked(self, ids: Ids) -> np.ndarray:
        ids = np.asarray(ids, np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= len(self)):
            raise UserError(
                f"row {ids.min() if ids.min() < 0 else ids.max()} is not in database {self.name!r}; "
                f"rows go from 0 to {len(self) - 1}"
            )
        return ids

    def _item(self, row: int) -> dict[str, Any]:
        group = bisect.bisect_right(self._group_ends, row)
        start = self._group_ends[group - 1] if group else 0
        item = self._group(group)[row - start]
        return {**item, "attributes": json.loads(item["attributes"] or "{}")}

    @functools.cached_property
    def _parquet(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.ParquetFile(self.path / ITEMS, memory_map=True)
        except (OSError, pyarrow.ArrowException) as error:
            raise _damaged(self.path, f"{ITEMS} cannot be read ({error})") from error
        if table.metadata.num_rows != len(self):
            raise _damaged(
                self.path, f"{ITEMS} has {table.metadata.num_rows} rows, and there are {len(self)} embeddings"
            )
        return table

    @functools.cached_property
    def _group_ends(self) -> list[int]:
        metadata = self._parquet.metadata
        return np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]).tolist()

    @functools.cached_property
    def _group(self) -> Any:
        # Row groups are read one by one, so that captions of millions of rows never lie in memory at once.
        return functools.lru_cache(CACHED_GROUPS)(self._read_group)

    def _read_group(self, group: int) -> list[dict[str, Any]]:
        import pyarrow

        try:
            return self._parquet.read_row_group(group).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise _damaged(self.path, f"{ITEMS} cannot be read ({error})") from error

    @functools.cached_property
    def _thumbnails(self) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        reader = ArrayRecordReader(str(self.path / THUMBNAILS))
        if reader.num_records() != len(self):
            raise _damaged(self.path, f"{THUMBNAILS} has {reader.num_records()} pictures for {len(self)} embeddings")
        return reader


def picture_hash(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Returns the SHA-256 over a decoded picture's size and pixels, whatever file format it came in."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def encode_thumbnail(image: UInt8[np.ndarray, "h w 3"], size: int, quality: int) -> bytes:
    """Returns a picture as a square WebP of `size` pixels, `quality` in [1, 100]; 100 is lossless."""
    buffer = io.BytesIO()
    small = Image.fromarray(images.resize_and_crop(image, size))
    small.save(buffer, "WEBP", quality=quality, lossless=quality == 100, method=4)
    return buffer.getvalue()


def _locate(name_or_path: str | Path) -> Path:
    if str(name_or_path) in Database.names():
        return EMBEDDED / str(name_or_path)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    raise unknown("database", str(name_or_path), Database.names(), hint="or give the folder of a database")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is no database: it has no {MANIFEST}; make one by rdm database build") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{MANIFEST} cannot be read ({error})") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise UserError(f"database {path} has schema {schema!r}, and this version reads {SCHEMA}; build it again")
    needed = ("name", "count", "width", "dtype", "encoder", "shards", "files", "thumbnail_size")
    missing = [key for key in needed if key not in manifest]
    if missing:
        raise _damaged(path, f"{MANIFEST} lacks {', '.join(missing)}")
    encoder = manifest["encoder"]
    if not isinstance(encoder, dict) or not {"name", "sha256", "width"} <= encoder.keys():
        raise _damaged(path, f"{MANIFEST} does not say by name, sha256 and width which encoder made the rows")
    return manifest


def _open_shard(path: Path, name: str, manifest: Mapping[str, Any]) -> np.ndarray:
    if name not in manifest["files"] or Path(name).name != name:
        raise _damaged(path, f"shard {name!r} is not among the manifest's files")
    try:
        shard = np.load(path / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{name} cannot be read ({error})") from error
    if shard.ndim != 2 or shard.shape[1] != manifest["width"] or shard.dtype.name != manifest["dtype"]:
        expected = f"[n, {manifest['width']}] {manifest['dtype']}"
        raise _damaged(path, f"{name} is {list(shard.shape)} {shard.dtype.name}, and the manifest says {expected}")
    return shard


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"damaged database {path}: {reason}; build or copy it again")


def _short(identity: Mapping[str, Any]) -> str:
    return f"{identity['name']!r} (sha256 {identity['sha256'][:12]}, width {identity['width']})"
