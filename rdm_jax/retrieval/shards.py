"""Shards of a database on disk: rows, what is told of them, and thumbnails, a file of each kind for each shard.

embeddings-00000-of-00002.npy      rows as the encoder gave them, not normalised; memory-mapped
items-00000-of-00002.parquet       id, path, caption, sha256 of the picture, box of the patch, attributes
thumbnails-00000-of-00002.array_record   one WebP for each row; not there where rows came without their pictures
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
SUFFIXES = {EMBEDDINGS: "npy", ITEMS: "parquet", THUMBNAILS: "array_record"}
GROUP_ROWS = 2048


@dataclasses.dataclass(frozen=True)
class Shard:
    """Rows that lie in files together.

    Attributes:
      folder: where the files are.
      rows: how many rows there are.
      names: the file of each kind.
      hashes: the SHA-256 of each file.
    """

    folder: Path
    rows: int
    names: Mapping[str, str]
    hashes: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """Returns what the manifest says of the shard."""
        return {"rows": self.rows, **self.names}

    def link(self, folder: Path, number: int, of: int) -> Shard:
        """Gives the files another name in another folder, without copying them where the file system can."""
        names = {kind: shard_name(kind, number, of) for kind in self.names}
        for kind, name in names.items():
            _link(self.folder / self.names[kind], folder / name)
        return Shard(folder, self.rows, names, {names[kind]: self.hashes[self.names[kind]] for kind in names})


def shard_name(kind: str, number: int, of: int) -> str:
    """Returns the name of a shard's file: embeddings-00003-of-00010.npy."""
    return f"{kind}-{number:05d}-of-{of:05d}.{SUFFIXES[kind]}"


def write_shard(
    folder: Path,
    number: int,
    of: int,
    items: Sequence[Mapping[str, Any]],
    rows: Float[np.ndarray, "n d"],
    thumbnails: Sequence[bytes] | None,
    dtype: str,
) -> Shard:
    """Writes a shard's files, each whole or not at all.

    Args:
      folder: where to.
      number: of the shard.
      of: how many shards there are.
      items: n dictionaries of path, caption, attributes, sha256, and box (left, top, right, bottom in pixels of the
        picture) where the row is that of a patch.
      rows: [n, d] the embeddings.
      thumbnails: n pictures as WebP, or None if there are none.
      dtype: of the stored rows.

    Raises:
      UserError: a row is not finite in the stored type, or the disk is full.
    """
    kinds = [EMBEDDINGS, ITEMS] + ([THUMBNAILS] if thumbnails is not None else [])
    names = {kind: shard_name(kind, number, of) for kind in kinds}
    stored = _stored(rows, items, dtype)
    with files.writing(folder):
        with files.replaced(folder / names[EMBEDDINGS]) as path, open(path, "wb") as file:
            np.save(file, stored, allow_pickle=False)
        with files.replaced(folder / names[ITEMS]) as path:
            _write_items(path, items)
        if thumbnails is not None:
            with files.replaced(folder / names[THUMBNAILS]) as path:
                write_records(path, thumbnails)
    return Shard(folder, len(rows), names, {name: files.sha256(folder / name) for name in names.values()})


def item_id(item: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits that stay with a row wherever it goes: of its picture, its place and its patch."""
    told = [item["sha256"], item["path"], item.get("box")]
    return files.sha256_json(told)[:16]


def picture_hash(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """Returns the SHA-256 over a decoded picture's size and pixels, whatever file format it came in."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def encode_thumbnail(image: UInt8[np.ndarray, "h w 3"], size: int, quality: int) -> bytes:
    """Returns a picture as a square WebP of `size` pixels, `quality` in [1, 100]; 100 is lossless."""
    buffer = io.BytesIO()
    small = Image.fromarray(images.resize_and_crop(image, size))
    small.save(buffer, "WEBP", quality=quality, lossless=quality == 100, method=4)
    return buffer.getvalue()


def _stored(rows: np.ndarray, items: Sequence[Mapping[str, Any]], dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = rows.astype(dtype)
    finite = np.isfinite(stored).all(axis=1)
    if not finite.all():
        bad = items[int(np.flatnonzero(~finite)[0])]["path"]
        raise UserError(f"the embedding of {bad} is not finite in {dtype}; use float32 rows")
    return stored


def _write_items(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [pa.field(name, pa.string()) for name in ("id", "path", "caption", "sha256")]
    box = pa.field("box", pa.list_(pa.int32(), 4))
    attributes = pa.field("attributes", pa.map_(pa.string(), pa.string()))
    records = [
        {**item, "id": item_id(item), "box": item.get("box"), "attributes": list(item["attributes"].items())}
        for item in items
    ]
    table = pa.Table.from_pylist(records, schema=pa.schema([*texts, box, attributes]))
    pq.write_table(table, path, compression="zstd", row_group_size=GROUP_ROWS)


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes an ArrayRecord file of records that are read one by one; raises OSError where the disk is full."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    try:
        for record in records:
            writer.write(record)
        writer.close()
    except RuntimeError as error:  # that the disk is full, for one
        raise OSError(str(error)) from error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
