"""Reading neighbours that were computed ahead of time: record i belongs to example i of a data set.

A record holds the example's number (int64), k row ids (int64), k cosines (float32) and, where they were asked for, k
rows (float16 [k, d]) of the database, best first, little endian, one after the other. An example whose picture could
not be read has ids -1 and zeros.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, Int64

from rdm_jax.core import files, storage
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.data.pictures import Pictures
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.manifest import MANIFEST

SCHEMA = 2

NEEDED = ("source", "database", "encoder", "count", "k", "embeddings", "part_lengths", "files", "skipped")

Records = tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"], Float16[np.ndarray, "n k d"]]


@dataclasses.dataclass(frozen=True)
class NeighborSidecar:
    """Neighbours on disk, record i for example i; cheap to open, to pickle and to read from several threads.

    Attributes:
      path: the folder.
      database: where rows are read from if the records hold none.

    Raises:
      UserError: no finished neighbours are there, a file is missing, or the rows of another database are given.
    """

    path: Path
    database: Database | None = None

    @staticmethod
    def open(place: str | Path, database: Database | None = None) -> NeighborSidecar:
        """Opens neighbours by their folder, or by their address in object storage, from where they are copied first.

        Raises:
          UserError: no finished neighbours are there, a file is missing, or the rows of another database are given.
        """
        remote = storage.is_remote(place)
        return NeighborSidecar(storage.staged(str(place), MANIFEST) if remote else Path(place).expanduser(), database)

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
        """What manifest.json holds."""
        return read_manifest(self.path)

    @property
    def k(self) -> int:
        """How many neighbours each example has."""
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
        """Returns one example's row ids [k], cosines [k] and rows [k, d]; `read` is quicker for many."""
        ids, scores, rows = self.read([index])
        return ids[0], scores[0], rows[0]

    def read(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> Records:
        """Returns several examples' row ids [n, k], cosines [n, k] and rows [n, k, d].

        Raises:
          UserError: the records hold no rows, and no database was given to read them from.
        """
        table = self._table(indices)
        return table["ids"], table["scores"], self._rows(table)

    def ids(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n k"]:
        """Returns several examples' row ids [n, k]."""
        return self._table(indices)["ids"]

    def _table(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the records of some examples, read file by file."""
        wanted = np.asarray(indices, np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"example {wanted.max()} of {len(self)}")
        records = [b""] * len(wanted)
        which = np.searchsorted(self._ends, wanted, side="right")
        for number in np.unique(which).tolist():
            places = np.flatnonzero(which == number)
            read = self._read_part(number, (wanted[places] - self._starts[number]).tolist())
            for place, record in zip(places.tolist(), read, strict=True):
                records[place] = record
        # A batch's rows are megabytes: they are put together once, and the array over them can be written to.
        table = np.frombuffer(bytearray().join(records), self._layout)
        if (table["row"] != wanted).any():
            raise _damaged(self.path, "its records are not in the order of the examples")
        return table

    def _read_part(self, number: int, rows: list[int]) -> list[bytes]:
        try:
            return self._reader(number).read(rows)
        except (ValueError, RuntimeError, IndexError) as error:
            raise _damaged(self.path, f"its parts cannot be read ({error})") from error

    def _rows(self, table: np.ndarray) -> np.ndarray:
        """Returns the rows [n, k, d] of records, zeros for an example without neighbours."""
        if self.manifest["embeddings"]:
            return table["embeddings"]
        if self.database is None:
            name = self.manifest["database"]["name"]
            raise UserError(
                f"neighbours {self.path} hold no rows; give database {name!r} too, or compute them with rows"
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
            # Records are asked for in any order: what lies behind them is not read too.
            reader = ArrayRecordReader(str(self.path / name), "readahead_buffer_size:0,max_parallelism:0")
        except (ValueError, RuntimeError, OSError) as error:
            raise _damaged(self.path, f"{name} cannot be read ({error})") from error
        if reader.num_records() != self.manifest["part_lengths"][number]:
            raise _damaged(self.path, f"{name} holds {reader.num_records()} records, fewer or more than it should")
        return reader

    def check(
        self,
        examples: ImageSource | Pictures,
        database: Database | None = None,
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises UserError unless the records belong to these examples, and to this database and encoder if given."""
        made = self.manifest
        if examples.fingerprint != made["source"]["fingerprint"]:
            raise UserError(
                f"neighbours {self.path} were computed for {made['source']['name']} ({made['count']} examples), not "
                f"for these {len(examples)} of another data set: pictures, captions, order or split differ; compute "
                "them again by rdm neighbors"
            )
        if database is not None:
            self.check_database(database)
        if encoder is not None and encoder["sha256"] != made["encoder"]["sha256"]:
            raise UserError(
                f"neighbours {self.path} were made by encoder {made['encoder']['name']!r} "
                f"({made['encoder']['sha256'][:12]}), not by this {encoder['name']!r} ({encoder['sha256'][:12]}); "
                "compute them again"
            )

    def check_database(self, database: Database) -> None:
        """Raises UserError unless the records come from this database."""
        made = self.manifest["database"]
        if database.digest != made["digest"]:
            raise UserError(
                f"neighbours {self.path} come from database {made['name']!r} ({made['digest'][:12]}), not from this "
                f"{database.name!r} ({database.digest[:12]}); compute them again by rdm neighbors"
            )

    def verify(self) -> None:
        """Reads every part and compares its SHA-256 with the manifest; raises UserError for a damaged one."""
        for name, expected in self.manifest["files"].items():
            if files.sha256(self.path / name) != expected:
                raise _damaged(self.path, f"the SHA-256 of {name} is not the one in {MANIFEST}")


def neighbor_rows(database: Database, ids: Int64[np.ndarray, "n k"]) -> Float16[np.ndarray, "n k d"]:
    """Returns the rows of neighbours, zeros where an id is -1: for an example whose picture could not be read."""
    rows = database.rows[np.maximum(ids, 0).reshape(-1)].reshape(*ids.shape, database.width)
    rows = rows.astype(np.float16, copy=False)
    rows[ids < 0] = 0
    return rows


def packed(
    rows: Int64[np.ndarray, " n"],
    ids: Int64[np.ndarray, "n k"],
    scores: Float32[np.ndarray, "n k"],
    embeddings: Float16[np.ndarray, "n k d"] | None,
) -> list[bytes]:
    """Returns one record for each example: its number, row ids, cosines, and rows unless they are None."""
    arrays = [rows.astype("<i8"), ids.astype("<i8"), scores.astype("<f4")]
    arrays += [] if embeddings is None else [embeddings.astype("<f2")]
    return [b"".join(array[i].tobytes() for array in arrays) for i in range(len(ids))]


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns what manifest.json holds; raises UserError where the folder holds no finished neighbours."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except OSError as error:
        raise UserError(
            f"{path} holds no finished neighbours: {MANIFEST} cannot be read; compute them by rdm neighbors"
        ) from error
    except ValueError as error:
        raise _damaged(path, f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UserError(f"{path} is of another version than {SCHEMA}; compute the neighbours again")
    missing = [key for key in NEEDED if key not in manifest]
    if missing:
        raise _damaged(path, f"{MANIFEST} lacks {', '.join(missing)}")
    return manifest


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"damaged neighbours {path}: {reason}; compute or copy them again")
