"""Making a database: pictures through the encoder into rows, captions and thumbnails, streamed, whole or not at all."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rdm_jax.core import files
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.data.sources import Example, Source
from rdm_jax.retrieval import database as layout
from rdm_jax.retrieval.encoder import Encoder

BATCH = 256
SHARD_ROWS = 2**18
GROUP_ROWS = 2048

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a build did.

    Attributes:
      path: the database's folder.
      count: how many rows it has.
      skipped: one line for each picture that could not be read.
    """

    path: Path
    count: int
    skipped: list[str]


def build_database(
    source: Source,
    encoder: Encoder,
    out: Path,
    *,
    name: str | None = None,
    thumbnail_size: int = 64,
    quality: int = 80,
    dtype: str = "float16",
    limit: int | None = None,
    where: Callable[[Example], bool] | None = None,
    max_skip: float = 0.05,
    licence: str = "",
    progress: Progress | None = None,
) -> Report:
    """Builds a database of a source's pictures.

    Args:
      source: the pictures, taken in their order.
      encoder: makes the rows; the manifest names it.
      out: a folder that does not exist yet.
      name: how the database calls itself; the folder's name if None.
      thumbnail_size: the side of the stored small pictures, in pixels.
      quality: of the small pictures as WebP, 1 to 100; 100 is lossless.
      dtype: of the stored rows, "float16" or "float32".
      limit: take so many pictures at most.
      where: take only examples that it says True of.
      max_skip: the share of unreadable pictures, in [0, 1], above which the build fails.
      licence: of the pictures, for the manifest.
      progress: called with (pictures done, pictures in all).

    Raises:
      UserError: `out` exists or cannot be written, too many pictures are broken, or none is left.
    """
    if dtype not in layout.DTYPES:
        raise unknown("dtype", dtype, layout.DTYPES)
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit} leaves no pictures; give 1 or more")
    skipped: list[str] = []
    with files.new_directory(Path(out)) as folder:
        writer = DatabaseWriter(folder, dtype, thumbnails=True)
        for examples in batched(read(source, skipped, max_skip, where, limit, progress), BATCH):
            thumbnails = [layout.encode_thumbnail(example.image, thumbnail_size, quality) for example in examples]
            writer.add([_item(example) for example in examples], _rows_of(examples, encoder), thumbnails)
        if not writer.count:
            raise UserError(f"no pictures of {source.name} are left to build a database of; check the filters")
        writer.finish(
            name=name or Path(out).name,
            encoder=dict(encoder.identity),
            thumbnail_size=thumbnail_size,
            source={"name": source.name, "fingerprint": source.fingerprint, "captions": source.captions},
            licence=licence,
            skipped=skipped,
        )
    return Report(Path(out), writer.count, skipped)


def read(
    source: Source,
    skipped: list[str],
    max_skip: float,
    where: Callable[[Example], bool] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Example]:
    """Yields a source's readable examples in their order, decoded ahead by several threads.

    Args:
      source: the pictures.
      skipped: gets one line for each picture that could not be read.
      max_skip: the share of such pictures above which reading fails.
      where: yields only examples that it says True of.
      limit: yields so many at most.
      progress: called with (pictures done, pictures in all).

    Raises:
      UserError: more than the share `max_skip` of the source's pictures are broken.
    """
    total = len(source)
    taken = 0
    for index, found in enumerate(_decoded(source)):
        if isinstance(found, ValueError):
            skipped.append(str(found))
            if len(skipped) > max_skip * total:
                raise UserError(
                    f"{len(skipped)} of the first {index + 1} pictures of {source.name} cannot be read, allowed are "
                    f"{max_skip:.1%} of {total}; the first: {skipped[0]}; mend them or allow more by --max-skip"
                )
        elif where is None or where(found):
            yield found
            taken += 1
        if progress:
            progress(index + 1, total)
        if taken == limit:
            return


def batched(examples: Iterator[Example], size: int) -> Iterator[list[Example]]:
    """Yields lists of `size` examples, the last one shorter."""
    while batch := list(itertools.islice(examples, size)):
        yield batch


def load(source: Source, index: int) -> Example | ValueError:
    """Returns an example, or the error that says why its picture cannot be read."""
    try:
        return source[index]
    except ValueError as error:
        return error


def _decoded(source: Source) -> Iterator[Example | ValueError]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(source), BATCH):
            indices = range(start, min(start + BATCH, len(source)))
            yield from pool.map(load, itertools.repeat(source), indices)


def _item(example: Example) -> dict[str, Any]:
    return {
        "path": example.path,
        "caption": example.caption,
        "attributes": json.dumps(dict(example.attributes), ensure_ascii=False),
        "sha256": layout.picture_hash(example.image),
    }


def _rows_of(examples: list[Example], encoder: Encoder) -> Float[np.ndarray, "n d"]:
    return encoder.encode_images([example.image for example in examples])


class DatabaseWriter:
    """Streams rows, what is told of them, and thumbnails into a folder, and writes its manifest at the end.

    Attributes:
      folder: an empty folder.
      dtype: of the stored rows.
      thumbnails: whether there are any.
    """

    def __init__(self, folder: Path, dtype: str, thumbnails: bool) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        self.folder, self.dtype = folder, dtype
        self.count = 0
        self._width = 0
        self._shards: list[str] = []
        self._pending: list[np.ndarray] = []
        self._items: list[dict[str, Any]] = []
        self._parquet: Any = None
        path = str(folder / layout.THUMBNAILS)
        self._thumbnails: Any = ArrayRecordWriter(path, "group_size:1,uncompressed") if thumbnails else None

    def add(
        self, items: Sequence[Mapping[str, Any]], rows: Float[np.ndarray, "n d"], thumbnails: Sequence[bytes] = ()
    ) -> None:
        """Appends rows with their path, caption, attributes (JSON) and sha256 each, and their thumbnails.

        Raises:
          UserError: a row is not finite in the stored type.
        """
        with np.errstate(over="ignore"):
            stored = rows.astype(self.dtype)
        if not np.isfinite(stored).all():
            bad = int(np.flatnonzero(~np.isfinite(stored).all(axis=1))[0])
            raise UserError(f"the embedding of {items[bad]['path']} is not finite in {self.dtype}; use float32 rows")
        for thumbnail in thumbnails:
            self._thumbnails.write(thumbnail)
        self._items += [{"id": self.count + i, **item} for i, item in enumerate(items)]
        self.count += len(items)
        self._width = rows.shape[1]
        self._pending.append(stored)
        if len(self._items) >= GROUP_ROWS:
            self._flush_items()
        if sum(len(part) for part in self._pending) >= SHARD_ROWS:
            self._flush_rows()

    def finish(self, **manifest: Any) -> None:
        """Writes what is left, and the manifest: what is given, and what is known here."""
        self._flush_items()
        self._flush_rows()
        self._parquet.close()
        if self._thumbnails:
            self._thumbnails.close()
        known = {"schema": layout.SCHEMA, "count": self.count, "width": self._width, "dtype": self.dtype}
        hashes = {file.name: files.sha256(file) for file in sorted(self.folder.iterdir())}
        files.write_json(self.folder / layout.MANIFEST, {**known, **manifest, "shards": self._shards, "files": hashes})

    def _flush_items(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._items:
            return
        texts = [pa.field(name, pa.string()) for name in ("path", "caption", "attributes", "sha256")]
        table = pa.Table.from_pylist(self._items, schema=pa.schema([pa.field("id", pa.int64()), *texts]))
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self.folder / layout.ITEMS, table.schema, compression="zstd")
        self._parquet.write_table(table, row_group_size=GROUP_ROWS)
        self._items = []

    def _flush_rows(self) -> None:
        if self._pending:
            name = f"embeddings-{len(self._shards):05d}.npy"
            np.save(self.folder / name, np.concatenate(self._pending), allow_pickle=False)
            self._shards.append(name)
            self._pending = []
