"""Reading neighbours that were computed ahead of time: record i belongs to example i of a data set.

A record holds k row ids (int64), k cosines (float32) and k rows (float16 [k, d]) of the database, best first, little
endian, one after the other. An example whose picture could not be read has ids -1 and zeros.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, Int64

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import Source
from rdm_jax.retrieval.database import Database

SCHEMA = 1
MANIFEST = "manifest.json"

Records = tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"], Float16[np.ndarray, "n k d"]]


@dataclasses.dataclass(frozen=True)
class NeighborSidecar:
    """Neighbours on disk, record i for example i; cheap to open, to pickle and to read from several threads.

    Attributes:
      path: the folder.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        missing = [name for name in self.manifest["files"] if not (self.path / name).is_file()]
        if missing:
            raise _damaged(self.path, f"{missing[0]} is missing")

    def __reduce__(self) -> tuple[Any, ...]:
        return NeighborSidecar, (self.path,)

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
        """Returns one example's row ids [k], cosines [k] and rows [k, d]."""
        ids, scores, embeddings = self.read([index])
        return ids[0], scores[0], embeddings[0]

    def read(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> Records:
        """Returns several examples' row ids [n, k], cosines [n, k] and rows [n, k, d]."""
        wanted = [int(i) for i in indices]
        if wanted and not 0 <= min(wanted) <= max(wanted) < len(self):
            raise IndexError(f"example {max(wanted)} of {len(self)}")
        return _unpacked(self._records.__getitems__(wanted) if wanted else [], self.k, self.width)

    def check(self, source: Source, database: Database | None = None, encoder: Mapping[str, Any] | None = None) -> None:
        """Raises UserError unless the records belong to this source, and to this database and encoder if given."""
        made = self.manifest
        if source.fingerprint != made["source"]["fingerprint"]:
            raise UserError(
                f"neighbours {self.path} were computed for {made['source']['name']} ({made['count']} examples), not "
                f"for this {source.name} ({len(source)}): pictures, captions, order or split differ; compute them again"
            )
        if database is not None and database.digest != made["database"]["digest"]:
            raise UserError(
                f"neighbours {self.path} come from database {made['database']['name']!r} "
                f"({made['database']['digest'][:12]}), not from this {database.name!r} ({database.digest[:12]}); "
                "compute them again"
            )
        if encoder is not None and encoder["sha256"] != made["encoder"]["sha256"]:
            raise UserError(
                f"neighbours {self.path} were made by encoder {made['encoder']['name']!r} "
                f"({made['encoder']['sha256'][:12]}), not by this {encoder['name']!r} ({encoder['sha256'][:12]}); "
                "compute them again"
            )

    def verify(self) -> None:
        """Reads every part and compares its SHA-256 with the manifest; raises UserError for a damaged one."""
        for name, expected in self.manifest["files"].items():
            if files.sha256(self.path / name) != expected:
                raise _damaged(self.path, f"the SHA-256 of {name} is not the one in {MANIFEST}")

    @functools.cached_property
    def _records(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        try:
            records = ArrayRecordDataSource([str(self.path / name) for name in self.manifest["files"]])
        except (ValueError, RuntimeError, OSError) as error:
            raise _damaged(self.path, f"its parts cannot be read ({error})") from error
        if len(records) != len(self):
            raise _damaged(self.path, f"its parts hold {len(records)} records, and the manifest says {len(self)}")
        return records


def packed(
    ids: Int64[np.ndarray, "n k"], scores: Float32[np.ndarray, "n k"], embeddings: Float16[np.ndarray, "n k d"]
) -> list[bytes]:
    """Returns one record for each example."""
    arrays = (ids.astype("<i8"), scores.astype("<f4"), embeddings.astype("<f2"))
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
    missing = [
        key for key in ("source", "database", "encoder", "count", "k", "files", "skipped") if key not in manifest
    ]
    if missing:
        raise _damaged(path, f"{MANIFEST} lacks {', '.join(missing)}")
    return manifest


def _unpacked(records: Sequence[bytes], k: int, width: int) -> Records:
    layout = np.dtype([("ids", "<i8", (k,)), ("scores", "<f4", (k,)), ("embeddings", "<f2", (k, width))])
    table = np.frombuffer(b"".join(records), layout)
    return table["ids"].astype(np.int64), table["scores"].astype(np.float32), table["embeddings"].astype(np.float16)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"damaged neighbours {path}: {reason}; compute or copy them again")
