"""The shards of a database on disk: rows, their items, and thumbnails, one file of each kind per shard.

embeddings-00000-of-00002.npy      rows as the encoder returns them, not normalized; memory-mapped
items-00000-of-00002.parquet       id, path, caption, sha256 of the image, box of the patch, attributes
thumbnails-00000-of-00002.array_record   one WebP per row; missing if the rows came without their images
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rdm_jax.core import files, images
from rdm_jax.core.errors import UserError

EMBEDDINGS, ITEMS, THUMBNAILS = "embeddings", "items", "thumbnails"
BOX = "box"  # the column of a patch's place in its image
SUFFIXES = {EMBEDDINGS: "npy", ITEMS: "parquet", THUMBNAILS: "array_record"}
GROUP_ROWS = 2048


@dataclasses.dataclass(frozen=True)
class Shard:
    """Rows that are stored together.

    Attributes:
      folder: the folder of the files.
      rows: the number of rows.
      names: the file of each kind.
      hashes: the SHA-256 of each file.
    """

    folder: Path
    rows: int
    names: Mapping[str, str]
    hashes: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """Returns the manifest's record of the shard."""
        return {"rows": self.rows, **self.names}

    def link(self, folder: Path, number: int, count: int) -> Shard:
        """Returns the shard as number `number` of `count` in another folder; links the files, or copies them."""
        names = {kind: shard_name(kind, number, count) for kind in self.names}
        for kind, name in names.items():
            _link(self.folder / self.names[kind], folder / name)
        return Shard(folder, self.rows, names, {names[kind]: self.hashes[self.names[kind]] for kind in names})


@dataclasses.dataclass(frozen=True)
class ShardContents:
    """The contents of a shard in memory.

    Attributes:
      items: n dictionaries of path, caption, attributes, sha256, and, for a patch, box (left, top, right, bottom in
        pixels of the image).
      rows: [n, d] the embeddings.
      thumbnails: n images as WebP, or None.
    """

    items: Sequence[Mapping[str, Any]]
    rows: Float[np.ndarray, "n d"]
    thumbnails: Sequence[bytes] | None = None


def shard_name(kind: str, number: int, count: int) -> str:
    """Returns the name of a shard's file, such as embeddings-00003-of-00010.npy."""
    return f"{kind}-{number:05d}-of-{count:05d}.{SUFFIXES[kind]}"


def write_shard(folder: Path, number: int, count: int, contents: ShardContents, dtype: str) -> Shard:
    """Writes a shard's files; each file is written completely or not at all.

    Args:
      folder: the folder to write to.
      number: the number of the shard.
      count: the number of shards.
      contents: items, rows and thumbnails.
      dtype: the type of the stored rows.

    Raises:
      UserError: a row is not finite in the stored type, or the disk is full.
    """
    kinds = [EMBEDDINGS, ITEMS] + ([THUMBNAILS] if contents.thumbnails is not None else [])
    names = {kind: shard_name(kind, number, count) for kind in kinds}
    rows = _stored_rows(contents, dtype)
    with files.writing(folder):
        with files.replaced(folder / names[EMBEDDINGS]) as path, open(path, "wb") as file:
            np.save(file, rows, allow_pickle=False)
        with files.replaced(folder / names[ITEMS]) as path:
            _write_items(path, contents.items)
        if contents.thumbnails is not None:
            with files.replaced(folder / names[THUMBNAILS]) as path:
                write_records(path, contents.thumbnails)
    return Shard(folder, len(rows), names, {name: files.sha256(folder / name) for name in names.values()})


def item_id(item: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that identify a row in every database: a hash of its image, path and patch."""
    return files.sha256_json([item["sha256"], item["path"], item.get("box")])[:16]


def image_hash(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Returns the SHA-256 over a decoded image's size and pixels, which does not depend on its file format."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def encode_thumbnail(image: UInt8[np.ndarray, "h w 3"], size: int, quality: int) -> bytes:
    """Returns an image as a square WebP of `size` pixels, `quality` in [1, 100]; 100 is lossless."""
    buffer = io.BytesIO()
    small = Image.fromarray(images.resize_and_crop(image, size))
    small.save(buffer, "WEBP", quality=quality, lossless=quality == 100, method=4)
    return buffer.getvalue()


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes an ArrayRecord file for random access; raises OSError if it cannot be written."""
    from array_record.python.array_record_module import ArrayRecordWriter

    with files.library_writes(RuntimeError):
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for record in records:
            writer.write(record)
        writer.close()


def damaged(path: Path, reason: str) -> UserError:
    """Returns the error for a database folder that does not agree with its manifest."""
    return UserError(f"damaged database {path}: {reason}; build or copy it again")


def _stored_rows(contents: ShardContents, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        rows = contents.rows.astype(dtype)
    finite = np.isfinite(rows).all(axis=1)
    if finite.all():
        return rows
    row = int(np.flatnonzero(~finite)[0])
    path = contents.items[row]["path"]
    if np.isfinite(contents.rows[row]).all():
        raise UserError(f"the embedding of {path} is not finite in {dtype}; use float32 rows")
    raise UserError(f"the embedding of {path} is not finite; check the weights of the encoder")


def _write_items(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [pa.field(name, pa.string()) for name in ("id", "path", "caption", "sha256")]
    box = pa.field(BOX, pa.list_(pa.int32()))  # of a fixed size, pyarrow before version 26 could not read nulls
    attributes = pa.field("attributes", pa.map_(pa.string(), pa.string()))
    records = [
        {**item, "id": item_id(item), BOX: item.get(BOX), "attributes": list(item["attributes"].items())}
        for item in items
    ]
    table = pa.Table.from_pylist(records, schema=pa.schema([*texts, box, attributes]))
    pq.write_table(table, path, compression="zstd", row_group_size=GROUP_ROWS)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)  # in the cache of the Hub a file is a relative link to its content
    except OSError:
        shutil.copyfile(source, target)
