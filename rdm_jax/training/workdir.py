"""The folder of a run: its configuration, its metrics, its images, its checkpoints; here or in object storage."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rdm_jax.core import files, paths, storage, text
from rdm_jax.core.errors import UserError, first_line

CONFIG = "config.json"
MODEL = "model.json"
TOKENIZER = "tokenizer.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # EFBIG: more than the shell's `ulimit -f`
NOT_WRITABLE = "choose a --workdir that can be written"


class Workdir:
    """A run's folder. What is written below `local` is in the folder itself, or is sent there by `publish`.

    Args:
      place: a folder, made where there is none, or an address such as gs://bucket/runs/one.

    Raises:
      UserError: it cannot be made.
    """

    def __init__(self, place: str | Path) -> None:
        self.is_remote = paths.is_remote(place)
        self.place = str(place).rstrip("/") if self.is_remote else str(place)
        cache = storage.cache_folder() / "runs" / files.sha256_json(self.place)[:16]
        self.local = cache if self.is_remote else paths.local(place)
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
        if not paths.is_remote(place) and not paths.local(place).is_dir():
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
        with self.writing(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, data)
            self.publish(name)

    def read_json(self, name: str) -> Any | None:
        """Returns what a JSON file holds, None where there is none.

        Raises:
          UserError: the file is damaged.
        """
        data = self.read(name)
        try:
            return None if data is None else json.loads(text.decode(data))
        except ValueError as error:
            raise UserError(
                f"{self.place}/{name} is damaged ({first_line(error)}); remove it, and start `rdm train` there once "
                "more, which writes it"
            ) from error

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file whole.

        Raises:
          UserError: it cannot be written.
        """
        self.write(name, files.json_bytes(value))

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Adds a line of JSON to a file; object storage, which cannot add, has the file written anew.

        Raises:
          UserError: it cannot be written.
        """
        path = self.local / name
        before = self.read(name) if self.is_remote and not path.exists() else None
        with self.writing(name):
            if before is not None:
                files.write_bytes(path, before)
            with open(path, "ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
            self.publish(name)

    def publish(self, name: str) -> None:
        """Sends a file below `local` to object storage, where the run lies there."""
        if self.is_remote:
            storage.put(self.local / name, f"{self.place}/{name}")

    def free_bytes(self) -> int | None:
        """Returns how many bytes the disk has left, None in object storage."""
        return None if self.is_remote else shutil.disk_usage(self.local).free

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Raises UserError for an OSError inside the block, which writes a file: the disk is full, say."""
        try:
            yield
        except OSError as error:
            raise self.unwritable(error, name) from error

    def unwritable(self, error: OSError, name: str = "") -> UserError:
        """Returns the error for a folder, or for a file in it, that cannot be written to."""
        place = f"{self.place}/{name}" if name else self.place
        advice = "make room, and the same command resumes" if error.errno in FULL else NOT_WRITABLE
        return UserError(f"cannot write to {place}: {error.strerror or first_line(error)}; {advice}")
