"""Neighbors on disk: record i belongs to example i of a data set.

A record contains the example's number (int64), k row ids (int64), k cosines (float32) and, optionally, k rows of the
database (float16 [k, d]), best first, little endian, one after the other. An example whose image could not be read has
ids of -1 and zeros.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, Int64

from rdm_jax.core import files, paths, storage, text
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.data.image_set import ImageSet
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.manifest import MANIFEST

SCHEMA = 2

NEEDED = ("source", "database", "encoder", "count", "k", "embeddings", "part_lengths", "files", "skipped")

Records = tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"], Float16[np.ndarray, "n k d"]]


@dataclasses.dataclass(frozen=True)
class NeighborSidecar:
    """Neighbors on disk, record i for example i; cheap to open and to pickle, safe to read from several threads.

    Attributes:
      path: the folder.
      database: the database to read rows from if the records have none.

    Raises:
      UserError: the neighbors are not finished, a file is missing, or they come from another database.
    """

    path: Path
    database: Database | None = None

    @staticmethod
    def open(place: str | Path, database: Database | None = None) -> NeighborSidecar:
        """Opens neighbors by their folder, or by their address in object storage, from where they are copied first.

        Raises:
          UserError: the neighbors are not finished, a file is missing, or they come from another database.
        """
        remote = paths.is_remote(place)
        return NeighborSidecar(storage.staged(str(place), MANIFEST) if remote else paths.local(place), database)

    def __post_init__(self) -> None:
        missing = [name for name in self.manifest["files"] if not (self.path / name).is_file()]
        if missing:
            raise _damaged(self.path, f"{missing[0]} is missing")
        if self.database is not None:
            self.check_database(self.database)

    def __reduce__(self) -> tuple[Any, ...]:
        return NeighborSidecar, (self.path, self.database)

    @functools.cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The contents of manifest.json."""
        return read_manifest(self.path)

    @property
    def k(self) -> int:
        """The number of neighbors of each example."""
        return int(self.manifest["k"])

    @property
    def width(self) -> int:
        """The length of an embedding."""
        return int(self.manifest["encoder"]["width"])

    def __len__(self) -> int:
        return int(self.manifest["count"])

    def __getitem__(
        self, index: int
    ) -> tuple[Int64[np.ndarray, " k"], Float32[np.ndarray, " k"], Float16[np.ndarray, "k d"]]:
        """Returns one example's row ids [k], cosines [k] and rows [k, d]; `read` is faster for many examples."""
        ids, scores, rows = self.read([index])
        return ids[0], scores[0], rows[0]

    def read(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> Records:
        """Returns the row ids [n, k], cosines [n, k] and rows [n, k, d] of several examples.

        Raises:
          UserError: the records have no rows, and the neighbors were opened without their database.
        """
        table = self._table(indices)
        return table["ids"], table["scores"], self._rows(table)

    def ids(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n k"]:
        """Returns the row ids [n, k] of several examples."""
        return self._table(indices)["ids"]

    def _table(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the records of some examples, read file by file."""
        examples = np.asarray(indices, np.int64)
        if examples.size and not 0 <= examples.min() <= examples.max() < len(self):
            raise IndexError(f"example {examples.max()} of {len(self)}")
        records = [b""] * len(examples)
        numbers = np.searchsorted(self._ends, examples, side="right")
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            part = self._read_part(number, (examples[places] - self._starts[number]).tolist())
            for place, record in zip(places.tolist(), part, strict=True):
                records[place] = record
        # The rows of a batch are megabytes: they are copied once, into an array that can be written to.
        table = np.frombuffer(bytearray().join(records), self._layout)
        if (table["row"] != examples).any():
            raise _damaged(self.path, "its records are not in the order of the examples")
        return table

    def _read_part(self, number: int, rows: list[int]) -> list[bytes]:
        try:
            return self._reader(number).read(rows)
        except (ValueError, RuntimeError, IndexError) as error:
            raise _damaged(self.path, f"its parts cannot be read ({error})") from error

    def _rows(self, table: np.ndarray) -> np.ndarray:
        """Returns the rows [n, k, d] of records, zeros for an example without neighbors."""
        if self.manifest["embeddings"]:
            return table["embeddings"]
        if self.database is None:
            name = self.manifest["database"]["name"]
            raise UserError(
                f"neighbors {self.path} have no rows; give database {name!r} too, or compute them with rows"
            )
        return neighbor_rows(self.database, table["ids"])

    @functools.cached_property
    def _layout(self) -> np.dtype:
        fields: list[Any] = [("row", "<i8"), ("ids", "<i8", (self.k,)), ("scores", "<f4", (self.k,))]
        if self.manifest["embeddings"]:
            fields.append(("embeddings", "<f2", (self.k, self.width)))
        return np.dtype(fields)

    @functools.cached_property
    def _ends(self) -> list[int]:
        return np.cumsum(self.manifest["part_lengths"]).tolist()

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [0, *self._ends[:-1]]

    @functools.cached_property
    def _reader(self) -> Callable[[int], Any]:
        return functools.cache(self._open_part)

    def _open_part(self, number: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        name = sorted(self.manifest["files"])[number]
        try:
            # Records are read in random order, so reading ahead would be wasted.
            reader = ArrayRecordReader(str(self.path / name), "readahead_buffer_size:0,max_parallelism:0")
        except (ValueError, RuntimeError, OSError) as error:
            raise _damaged(self.path, f"{name} cannot be read ({error})") from error
        expected = self.manifest["part_lengths"][number]
        if reader.num_records() != expected:
            raise _damaged(self.path, f"{name} has {reader.num_records()} records instead of {expected}")
        return reader

    def check(
        self,
        examples: ImageSource | ImageSet,
        database: Database | None = None,
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises UserError unless the records belong to these examples, and to this database and encoder if given."""
        record = self.manifest
        if examples.fingerprint != record["source"]["fingerprint"]:
            raise UserError(
                f"neighbors {self.path} were computed for {record['source']['name']} ({record['count']} examples), not "
                f"for these {len(examples)} of another data set: images, captions, order or split differ; compute them "
                "again with rdm neighbors"
            )
        if database is not None:
            self.check_database(database)
        if encoder is not None and encoder["sha256"] != record["encoder"]["sha256"]:
            raise UserError(
                f"neighbors {self.path} were computed with encoder {record['encoder']['name']!r} "
                f"({record['encoder']['sha256'][:12]}), not with this {encoder['name']!r} "
                f"({encoder['sha256'][:12]}); compute them again"
            )

    def check_database(self, database: Database) -> None:
        """Raises UserError unless the records come from this database."""
        record = self.manifest["database"]
        if database.digest != record["digest"]:
            raise UserError(
                f"neighbors {self.path} come from database {record['name']!r} ({record['digest'][:12]}), not from this "
                f"{database.name!r} ({database.digest[:12]}); compute them again with rdm neighbors"
            )

    def verify(self) -> None:
        """Reads every part and compares its SHA-256 with the manifest; raises UserError for a damaged one."""
        for name, expected in self.manifest["files"].items():
            if files.sha256(self.path / name) != expected:
                raise _damaged(self.path, f"the SHA-256 of {name} is not the one in {MANIFEST}")


def neighbor_rows(database: Database, ids: Int64[np.ndarray, "n k"]) -> Float16[np.ndarray, "n k d"]:
    """Returns the rows of neighbors, zeros where an id is -1, as for an example whose image could not be read."""
    rows = database.rows[np.maximum(ids, 0).reshape(-1)].reshape(*ids.shape, database.width)
    rows = rows.astype(np.float16, copy=False)
    rows[ids < 0] = 0
    return rows


def pack_records(
    examples: Int64[np.ndarray, " n"],
    ids: Int64[np.ndarray, "n k"],
    scores: Float32[np.ndarray, "n k"],
    embeddings: Float16[np.ndarray, "n k d"] | None,
) -> list[bytes]:
    """Returns one record for each example: its number, row ids, cosines, and rows unless they are None."""
    arrays = [examples.astype("<i8"), ids.astype("<i8"), scores.astype("<f4")]
    arrays += [] if embeddings is None else [embeddings.astype("<f2")]
    return [b"".join(array[i].tobytes() for array in arrays) for i in range(len(ids))]


def complete_manifest(record: Mapping[str, Any], notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the manifest of neighbors.

    Args:
      record: the description of the neighbors, which has all entries of `NEEDED` except files and skipped.
      notes: the notes of all parts, in order: hashes of files, and one line for each unreadable image.
    """
    return {
        **record,
        "skipped": [line for note in notes for line in note["skipped"]],
        "files": {name: value for note in notes for name, value in note["hashes"].items()},
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest that completes a folder of parts."""
    files.write_json(folder / MANIFEST, manifest)


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the contents of manifest.json; raises UserError if the folder has no finished neighbors."""
    try:
        manifest = text.read_json(path / MANIFEST)
    except OSError as error:
        raise UserError(
            f"{path} has no finished neighbors: {MANIFEST} cannot be read; compute them with rdm neighbors"
        ) from error
    except ValueError as error:
        raise _damaged(path, f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UserError(f"{path} has another schema than {SCHEMA}; compute the neighbors again")
    missing = [key for key in NEEDED if key not in manifest]
    if missing:
        raise _damaged(path, f"{MANIFEST} has no {', '.join(missing)}")
    return manifest


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"damaged neighbors {path}: {reason}; compute or copy them again")
