"""Converts databases of other programs: CompVis's .npz files and clip-retrieval's folders.

A CompVis database is one .npz or a folder of shards, with `embedding` [n, d], `img_id` [n] and `patch_coords` [n, 4],
the corners of the patch in pixels. A clip-retrieval folder has `img_emb/*.npy` and, in the same order,
`metadata/*.parquet` with captions and addresses. Neither holds images. Rows are streamed.

A vector that is not finite, or zero, has no direction and is nobody's neighbor: such rows are left out with their
metadata, reported, and listed in the database's skipped.jsonl. Files whose numbers of rows differ are refused, because
nobody knows which vector belongs to which caption.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from rdm_jax.core import files
from rdm_jax.core.errors import UserError, bounded, unknown
from rdm_jax.core.left_out import of_lines
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.retrieval.manifest import BUNDLE, DTYPES, ManifestDraft, write_manifest
from rdm_jax.retrieval.shards import ShardContents, write_shard

_LOG = logging.getLogger(__name__)

CHUNK = 8192
SHARD_ROWS = 2**17
THUMBNAIL_SIZE = 64  # of the gray squares that stand for the images
CAPTIONS = ("caption", "text", "TEXT")
PATHS = ("image_path", "url", "URL", "key")
LARGEST = 2**31 - 1  # corner of a patch in pixels

Chunk = tuple[np.ndarray, list[dict[str, Any]]]


def import_database(
    source: Path,
    encoder: Mapping[str, Any],
    out: Path,
    *,
    name: str | None = None,
    dtype: str = "float16",
    limit: int | None = None,
    licence: str = "",
    bundle: str = "",
    progress: ProgressCallback | None = None,
) -> int:
    """Writes a database of a foreign one's rows, a few thousand at a time, and returns their number.

    Args:
      source: an .npz file, a folder of them, or a folder with img_emb and metadata.
      encoder: the identity of the encoder of the rows: name, sha256, width.
      out: a folder that does not exist yet.
      name: of the database; the folder's name if None.
      dtype: of the stored rows, "float16" or "float32".
      limit: the largest number of rows.
      licence: of the images, recorded in the manifest.
      bundle: the folder of the encoder's bundle, recorded to find it again; "" if it has none.
      progress: called with (rows done, rows in all).

    Raises:
      UserError: the source is neither, is damaged, has rows of another width or no numbers, or another number of rows
        in its metadata; no row is left, or `out` exists.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit} leaves no rows; give 1 or more")
    kind, shards = _shards(source)
    counts = [_rows(shard, encoder["width"]) for shard, _ in shards]
    total = min(sum(counts), limit or sum(counts))
    if not total:
        raise UserError(f"{source} holds no rows; download it again")
    for (shard, table), count in zip(shards, counts, strict=True):
        _check_metadata(shard, table, count)
    skipped: list[str] = []
    chunks = _directed(itertools.chain.from_iterable(_read(shard, table) for shard, table in shards), skipped)
    with files.new_directory(out) as folder:
        # How many shards there are is part of their names, and known at the end.
        with tempfile.TemporaryDirectory(dir=folder) as parts:
            shards, done = [], 0
            for rows, items in _regrouped(chunks, total):
                shards.append(write_shard(Path(parts), len(shards), len(counts), ShardContents(items, rows), dtype))
                done += len(rows)
                if progress:
                    progress(done, total)
            if not done:
                raise UserError(f"{source} holds no usable rows; {of_lines(skipped, 'row')}")
            linked = [shard.link(folder, number, len(shards)) for number, shard in enumerate(shards)]
        description = {
            "name": name or out.name,
            "width": int(encoder["width"]),
            "dtype": dtype,
            "encoder": dict(encoder),
            **({BUNDLE: bundle} if bundle else {}),
            "thumbnail_size": THUMBNAIL_SIZE,
            "licence": licence,
            "sources": [{"name": source.name, "captions": kind, "licence": licence, "rows": done}],
        }
        write_manifest(folder, linked, ManifestDraft(description, {"action": "import", "rows": done}, skipped))
    if skipped:
        _LOG.warning("%s: %s", source, str(of_lines(skipped, "row")))
    return done


def _directed(chunks: Iterator[Chunk], skipped: list[str]) -> Iterator[Chunk]:
    """Yields the rows that have a direction; adds a line for each of the others to `skipped`."""
    for rows, items in chunks:
        finite = np.asarray(np.isfinite(rows).all(axis=1))
        nonzero = np.asarray(np.any(rows != 0, axis=1))
        for number in np.flatnonzero(~(finite & nonzero)).tolist():
            skipped.append(f"{items[number]['path']}: {'zero' if finite[number] else 'not finite'}")
        kept = np.flatnonzero(finite & nonzero)
        yield rows[kept], [items[number] for number in kept.tolist()]


def _regrouped(chunks: Iterator[Chunk], total: int) -> Iterator[Chunk]:
    """Yields at most the first `total` rows and items in chunks of a shard's size."""
    rows: list[np.ndarray] = []
    items: list[dict[str, Any]] = []
    left = total
    for chunk, chunk_items in chunks:
        taken = min(len(chunk), left)
        rows.append(chunk[:taken])
        items += chunk_items[:taken]
        left -= taken
        while len(items) >= SHARD_ROWS:
            joined = np.concatenate(rows)
            yield joined[:SHARD_ROWS], items[:SHARD_ROWS]
            rows, items = [joined[SHARD_ROWS:]], items[SHARD_ROWS:]
        if not left:
            break
    if items:
        yield np.concatenate(rows), items


def _shards(source: Path) -> tuple[str, list[tuple[Path, Path | None]]]:
    """Returns the kind of the source, and its files of rows, each with its table or None."""
    if source.suffix == ".npz" and source.is_file():
        return "CompVis", [(source, None)]
    rows = _in_order(source / "img_emb", "*.npy")
    if rows:
        tables = _in_order(source / "metadata", "*.parquet")
        if tables and len(tables) != len(rows):
            raise UserError(
                f"{source} has {len(rows)} files of vectors and {len(tables)} of metadata; {_together(source)}"
            )
        return "clip-retrieval", list(zip(rows, tables or [None] * len(rows), strict=True))
    packed = _in_order(source, "*.npz")
    if not packed:
        raise UserError(f"{source} is no .npz file, and has neither .npz files nor img_emb/*.npy in it")
    return "CompVis", [(path, None) for path in packed]


def _in_order(folder: Path, pattern: str) -> list[Path]:
    """Returns a folder's files with part_10 after part_9."""

    def key(path: Path) -> list[tuple[bool, int, str]]:
        """Returns the sort key of a file: numbers by their value."""
        return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path.name)]

    return sorted(folder.glob(pattern), key=key)


def _together(source: Path) -> str:
    """Returns what to do if vectors and metadata do not belong together."""
    return (
        f"put the files of one run of clip-retrieval there, or move {source / 'metadata'} away to import the vectors "
        "without captions"
    )


def _check_metadata(shard: Path, table: Path | None, count: int) -> None:
    """Raises UserError unless what describes the rows of a file has as many entries."""
    if shard.suffix == ".npz":
        _check_columns(shard, count)
    if table is not None:
        _check_table(shard, table, count)


def _rows(shard: Path, width: int) -> int:
    """Returns the number of a file's rows; raises UserError unless they are numbers of this width."""
    shape, dtype = _header(shard, "embedding")
    if len(shape) != 2 or dtype.kind != "f":
        raise UserError(f"{shard} holds {list(shape)} {dtype}, and rows of numbers [n, d] are needed")
    if shape[1] != width:
        raise UserError(f"the rows of {shard} are {shape[1]} numbers long, and the encoder's {width}; name its encoder")
    return shape[0]


def _check_columns(shard: Path, count: int) -> None:
    """Raises UserError unless the other arrays of an .npz fit its rows."""
    for name, rest, kinds in (("img_id", (), "iufUS"), ("patch_coords", (4,), "iuf")):
        shape, dtype = _header(shard, name)
        if len(shape) == 1 + len(rest) and shape[1:] == rest and dtype.kind in kinds and shape[0] != count:
            raise UserError(
                f"{shard} has {count} vectors and {shape[0]} entries in {name!r}; save as many of each, in one order"
            )
        if shape != (count, *rest) or dtype.kind not in kinds:
            raise UserError(
                f"{shard} holds {list(shape)} {dtype} in {name!r}, and needs {[count, *rest]} for its {count} vectors"
            )


def _check_table(shard: Path, table: Path, count: int) -> None:
    """Raises UserError unless a table describes the rows of a file, one by one."""
    numbers = [re.findall(r"\d+", path.stem)[-1:] for path in (shard, table)]
    if all(numbers) and int(numbers[0][0]) != int(numbers[1][0]):
        raise UserError(
            f"{shard.name} has no metadata of its number, the next file is {table.name}; "
            f"{_together(shard.parent.parent)}"
        )
    with _table(table) as file:
        described = file.metadata.num_rows
    if described != count:
        raise UserError(
            f"{shard.name} has {count} vectors, and {table.name} describes {described}; "
            f"{_together(shard.parent.parent)}"
        )


def _header(file: Path, array: str) -> tuple[tuple[int, ...], np.dtype]:
    with _opened(file, array) as (_, shape, dtype):
        return shape, dtype


def _read(shard: Path, table: Path | None) -> Iterator[Chunk]:
    return _read_npy(shard, table) if shard.suffix == ".npy" else _read_npz(shard)


def _read_npz(shard: Path) -> Iterator[Chunk]:
    columns = [_chunks(shard, name) for name in ("embedding", "img_id", "patch_coords")]
    for rows, ids, corners in zip(*columns, strict=True):
        boxes = _boxes(shard, corners)
        yield rows, [{**_item(str(i), "", {"img_id": str(i)}), "box": box} for i, box in zip(ids, boxes, strict=True)]


def _boxes(shard: Path, corners: np.ndarray) -> list[list[int]]:
    """Returns the corners of patches in pixels; raises UserError if they are none."""
    if not (np.isfinite(corners).all() and (np.abs(corners) <= LARGEST).all()):
        raise UserError(f"{shard} holds numbers in 'patch_coords' that are no pixels; save the corners of each patch")
    return corners.astype(np.int64).tolist()


def _read_npy(shard: Path, table: Path | None) -> Iterator[Chunk]:
    records = _records(table) if table else itertools.repeat({})
    done = 0
    for rows in _chunks(shard, "embedding"):
        taken = list(itertools.islice(records, len(rows)))
        yield rows, [_item_of(record, f"{shard.stem}/{number}") for number, record in enumerate(taken, start=done)]
        done += len(rows)


def _item_of(record: Mapping[str, Any], default: str) -> dict[str, Any]:
    plain = {name: str(value) for name, value in record.items() if isinstance(value, str | int | float)}
    return _item(_first(record, PATHS) or default, _first(record, CAPTIONS), plain)


def _records(table: Path) -> Iterator[dict[str, Any]]:
    with _table(table) as file:
        for batch in file.iter_batches(CHUNK):
            yield from batch.to_pylist()


@contextlib.contextmanager
def _table(table: Path) -> Iterator[Any]:
    """Yields an open Parquet file; raises UserError for what is damaged in it."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(table) as file:
            yield file
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{table} cannot be read ({error}); download it again") from error


def _item(path: str, caption: str, attributes: Mapping[str, str]) -> dict[str, Any]:
    return {"path": path, "caption": caption, "attributes": dict(attributes), "sha256": ""}


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(record[name]) for name in names if record.get(name)), "")


def _chunks(file: Path, array: str) -> Iterator[np.ndarray]:
    """Yields an array of an .npz, or the array of an .npy, a few thousand rows at a time."""
    with _opened(file, array) as (stream, shape, dtype):
        size = int(np.prod(shape[1:], dtype=np.int64))
        for start in range(0, shape[0], CHUNK):
            count = min(CHUNK, shape[0] - start)
            data = stream.read(count * size * dtype.itemsize)
            if len(data) < count * size * dtype.itemsize:
                raise UserError(f"{file} is truncated: {array} has {shape[0]} rows by its header; download it again")
            yield np.frombuffer(data, dtype).reshape(count, *shape[1:])


@contextlib.contextmanager
def _opened(file: Path, array: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """Yields the stream of an array's numbers, its shape and its type.

    Raises:
      UserError: the file is damaged, has no such array, or one of Python objects, which would run code.
    """
    with contextlib.ExitStack() as stack:
        try:
            if file.suffix == ".npy":
                stream: IO[bytes] = stack.enter_context(open(file, "rb"))
            else:
                archive = stack.enter_context(zipfile.ZipFile(file))
                stream = stack.enter_context(archive.open(f"{array}.npy"))
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, column_major, dtype = read(stream)
        except KeyError as error:
            raise UserError(f"{file} has no array {array!r}; CompVis's databases have one") from error
        except Exception as error:  # each damage has an error of its own
            raise UserError(f"{file} cannot be read ({error}); download it again") from error
        if dtype.hasobject or column_major:
            reason = "Python objects" if dtype.hasobject else "numbers in column-major order"
            raise UserError(f"{file} holds {reason} in {array!r}; save plain numbers in row-major order")
        with bounded(f"{file} is damaged", "download it again"):
            yield stream, shape, dtype
