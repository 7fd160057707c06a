"""Reads a shard of a database: its items and thumbnails."""

from __future__ import annotations

import bisect
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from rdm_jax.core import images
from rdm_jax.data.selection import COLUMNS
from rdm_jax.retrieval.shards import BOX, ITEMS, THUMBNAILS, Shard, damaged

CACHED_GROUPS = 64
GRAY = 200


class StoredShard:
    """The items and thumbnails of one shard, opened on first access."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        # Evaluations read from several threads, and neither reader allows more than one at a time.
        self._lock = threading.RLock()
        # Row groups are read one by one, so that memory never holds the captions of millions of rows.
        self._group = functools.lru_cache(CACHED_GROUPS)(self._read_group)

    def item(self, row: int) -> dict[str, Any]:
        """Returns the item of a row: id, path, caption, sha256, box and attributes."""
        with self._lock:
            group = bisect.bisect_right(self._group_ends, row)
            start = self._group_ends[group - 1] if group else 0
            item = self._group(group)[row - start]
        return {**item, BOX: item.get(BOX), "attributes": dict(item["attributes"] or [])}

    def column(self, key: str) -> Any:
        """Returns the texts of a column or of an attribute as a pyarrow array, null where there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        name = key if key in COLUMNS else "attributes"
        try:
            with self._lock:
                column = self._parquet.read(columns=[name]).column(name)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.shard.folder, f"{self.shard.names[ITEMS]} cannot be read ({error})") from error
        if name == "attributes":
            column = pc.call_function("map_lookup", [column], pc.MapLookupOptions(pa.scalar(key), "first"))
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

    def thumbnails(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Returns the thumbnails of rows, uint8 [size, size, 3]; gray squares if the shard has none."""
        records = self.records(rows)
        if records is None:
            return [np.full((8, 8, 3), GRAY, np.uint8)] * len(rows)
        try:
            return [images.decode(data) for data in records]
        except ValueError as error:
            raise self._unreadable(error) from error

    def records(self, rows: Sequence[int]) -> list[bytes] | None:
        """Returns the encoded thumbnails of rows, None if the shard has none."""
        if THUMBNAILS not in self.shard.names:
            return None
        try:
            with self._lock:
                return list(self._reader.read(list(rows))) if len(rows) else []
        except (ValueError, RuntimeError, IndexError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> Exception:
        return damaged(self.shard.folder, f"{self.shard.names[THUMBNAILS]} cannot be read ({error})")

    @functools.cached_property
    def _parquet(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        name = self.shard.names[ITEMS]
        try:
            table = pyarrow.parquet.ParquetFile(self.shard.folder / name, memory_map=True)
        except (OSError, pyarrow.ArrowException) as error:
            raise damaged(self.shard.folder, f"{name} cannot be read ({error})") from error
        if table.metadata.num_rows != self.shard.rows:
            reason = f"{name} has {table.metadata.num_rows} rows, and there are {self.shard.rows} embeddings"
            raise damaged(self.shard.folder, reason)
        return table

    @functools.cached_property
    def _group_ends(self) -> list[int]:
        metadata = self._parquet.metadata
        return np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]).tolist()

    def _read_group(self, group: int) -> list[dict[str, Any]]:
        import pyarrow

        try:
            return self._parquet.read_row_group(group, self._readable_columns(group)).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise damaged(self.shard.folder, f"{self.shard.names[ITEMS]} cannot be read ({error})") from error

    def _readable_columns(self, group: int) -> list[str]:
        """Returns the columns of a row group, without the boxes where there is none.

        Earlier builds stored boxes as lists of a fixed size, which pyarrow before version 26 cannot read where they are
        null.
        """
        metadata = self._parquet.metadata.row_group(group)
        chunks = [metadata.column(number) for number in range(metadata.num_columns)]
        counted = [chunk for chunk in chunks if chunk.statistics is not None]
        null = {one.path_in_schema.split(".")[0] for one in counted if one.statistics.null_count == one.num_values}
        return [name for name in self._parquet.schema_arrow.names if name != BOX or name not in null]

    @functools.cached_property
    def _reader(self) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        name = self.shard.names[THUMBNAILS]
        reader = ArrayRecordReader(str(self.shard.folder / name))
        if reader.num_records() != self.shard.rows:
            reason = f"{name} has {reader.num_records()} images for {self.shard.rows} embeddings"
            raise damaged(self.shard.folder, reason)
        return reader
