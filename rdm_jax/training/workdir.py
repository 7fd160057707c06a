"""The folder of a run: its configuration, its metrics, its images, its checkpoints; here or in object storage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdm_jax.core import files, storage
from rdm_jax.core.errors import UserError

CONFIG = "config.json"
MODEL = "model.json"
TOKENIZER = "tokenizer.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"


class Workdir:
    """A run's folder. What is written below `local` is in the folder itself, or is sent there by `publish`.

    Args:
      place: a folder, made where there is none, or an address such as gs://bucket/runs/one.

    Raises:
      UserError: it cannot be made.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self.is_remote = storage.is_remote(place)
        self.local = (
            storage.cache_folder() / "runs" / files.sha256_json(self.place)[:16] if self.is_remote else Path(place)
        )
        try:
            self.local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.unwritable(error) from error

    @staticmethod
    def existing(place: str | Path) -> Workdir:
        """Returns a run's folder that is there already.

        Raises:
          UserError: there is no such folder.
        """
        if not storage.is_remote(place) and not Path(place).is_dir():
            raise UserError(f"there is no folder {place}; give a --workdir of `rdm train`")
        return Workdir(place)

    def __str__(self) -> str:
        return self.place

    @property
    def run_id(self) -> str:
        """A short name of the folder, the same whenever it is opened."""
        return files.sha256_json(self.place if self.is_remote else str(self.local.absolute()))[:16]

    @property
    def checkpoints(self) -> str:
        """Where checkpoints lie."""
        return f"{self.place}/{CHECKPOINTS}" if self.is_remote else str((self.local / CHECKPOINTS).absolute())

    def read(self, name: str) -> bytes | None:
        """Returns what a file holds, None where there is none."""
        if not self.is_remote:
            path = self.local / name
            return path.read_bytes() if path.exists() else None
        folder, _, file = f"{self.place}/{name}".rpartition("/")
        return storage.read(f"{folder}/{file}") if file in storage.names(folder) else None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file whole.

        Raises:
          UserError: it cannot be written.
        """
        path = self.local / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, data)
        except OSError as error:
            raise self.unwritable(error) from error
        self.publish(name)

    def read_json(self, name: str) -> Any | None:
        """Returns what a JSON file holds, None where there is none."""
        found = self.read(name)
        return None if found is None else json.loads(found)

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole.

        Raises:
          UserError: it cannot be written.
        """
        self.write(name, files.json_bytes(value))

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Adds a line of JSON to a file; object storage, which cannot add, has the file written anew."""
        path = self.local / name
        before = self.read(name) if self.is_remote and not path.exists() else None
        if before is not None:
            path.write_bytes(before)
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
        self.publish(name)

    def publish(self, name: str) -> None:
        """Sends a file below `local` to object storage, where the run lies there."""
        if self.is_remote:
            storage.put(self.local / name, f"{self.place}/{name}")

    def free_bytes(self) -> int | None:
        """Returns how many bytes the disk has left, None in object storage."""
        return None if self.is_remote else shutil.disk_usage(self.local).free

    def unwritable(self, error: OSError) -> UserError:
        """Returns the error for a folder that cannot be written to."""
        return UserError(f"cannot write to {self.place}: {error.strerror}; choose a --workdir that can be written")
