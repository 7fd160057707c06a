"""Work in parts whose output is in object storage, where the parts of a run lie in their final place."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rdm_jax.core import storage
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.manifest import MANIFEST
from rdm_jax.retrieval.parts import RECORD, Workspace, difference, notes_name

NOTES = "parts"


@dataclasses.dataclass(frozen=True)
class RemoteWorkspace(Workspace):
    """Parts in object storage, in their final place; their notes lie in `parts/` until the manifest is written.

    Attributes:
      address: such as gs://bucket/folder.
    """

    address: str = ""

    @staticmethod
    def at(address: str, record: Mapping[str, Any], count: int) -> RemoteWorkspace:
        """Starts a run at an address, or resumes it; raises UserError if another run is there."""
        work = RemoteWorkspace(Path(), count, address.rstrip("/"))
        if MANIFEST in storage.names(work.address):
            raise UserError(f"{address} exists already; choose another place or remove it first")
        if RECORD not in work._names():
            storage.write(f"{work.address}/{NOTES}/{RECORD}", json.dumps(dict(record)).encode())
        if differing := difference(work.record(), record):
            raise UserError(f"{address} holds an unfinished run with another {differing}; remove it or choose another")
        return work

    @property
    def place(self) -> str:
        """The address."""
        return self.address

    def record(self) -> Mapping[str, Any]:
        """Returns the record of the run; raises UserError if it is missing or damaged."""
        try:
            return json.loads(storage.read(f"{self.address}/{NOTES}/{RECORD}"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.address} holds a damaged run ({error}); remove it") from error

    def notes(self, number: int) -> Any:
        """Returns the notes of a complete part."""
        return json.loads(storage.read(f"{self.address}/{NOTES}/{notes_name(number)}"))

    def write(self, number: int, make: Callable[[Path], Any]) -> Any:
        """Makes a part in a local folder, copies its files, and then writes its notes."""
        with tempfile.TemporaryDirectory() as folder:
            notes = make(Path(folder))
            for file in sorted(Path(folder).iterdir()):
                storage.put(file, f"{self.address}/{file.name}")
        storage.write(f"{self.address}/{NOTES}/{notes_name(number)}", json.dumps(notes).encode())
        return notes

    def publish(self, folder: Path) -> None:
        """Copies the other files of the output, the manifest last, and removes the notes."""
        storage.upload(folder, self.address, MANIFEST)
        storage.remove(f"{self.address}/{NOTES}")

    def _names(self) -> list[str]:
        return storage.names(f"{self.address}/{NOTES}")
