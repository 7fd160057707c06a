"""The files of a folder or of a zip, by relative paths with forward slashes."""

from __future__ import annotations

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rdm_jax.core.errors import UserError

MAX_BYTES = 256 * 2**20


@runtime_checkable
class FileTree(Protocol):
    """Files below a root by their relative paths."""

    def paths(self) -> list[str]:
        """Returns the paths of all files that are not hidden, sorted."""
        ...

    def read(self, path: str) -> bytes:
        """Returns a file's bytes; raises ValueError if it is missing, unreadable or larger than `MAX_BYTES`."""
        ...

    def stamp(self, path: str) -> tuple[int, int]:
        """Returns a file's size and CRC-32, (0, 0) if it is missing; equal for a folder and its zip."""
        ...


@dataclasses.dataclass(frozen=True)
class FolderFiles:
    """The files of a folder."""

    root: Path

    def paths(self) -> list[str]:
        """Returns the paths of all files that are not hidden, sorted."""
        try:
            files = [Path(top) / name for top, _, names in os.walk(self.root, onerror=_raise) for name in names]
        except OSError as error:
            raise UserError(f"cannot read folder {error.filename}: {error.strerror}; check its permissions") from error
        return _visible(file.relative_to(self.root).as_posix() for file in files)

    def read(self, path: str) -> bytes:
        """Returns a file's bytes."""
        file = self.root / path
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            return file.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read: {error.strerror}") from error

    def stamp(self, path: str) -> tuple[int, int]:
        """Returns a file's size and CRC-32, (0, 0) if it is missing."""
        try:
            data = (self.root / path).read_bytes()
        except OSError:
            return 0, 0
        return len(data), zlib.crc32(data)


@dataclasses.dataclass(frozen=True)
class ZipFiles:
    """The files of a zip; a single top folder that contains all of them is not part of their paths."""

    archive: Path
    # Processes must not share a file handle, so each process opens its own.
    _opened: dict[int, tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    def __getstate__(self) -> dict[str, Any]:
        return {"archive": self.archive}

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, "archive", state["archive"])
        object.__setattr__(self, "_opened", {})

    def paths(self) -> list[str]:
        """Returns the paths of all files that are not hidden, sorted."""
        return sorted(self._members()[1])

    def read(self, path: str) -> bytes:
        """Returns a file's bytes."""
        archive, members = self._members()
        if path not in members:
            raise ValueError("no such file in the zip")
        if members[path].file_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        try:
            return archive.read(members[path])
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, OSError, EOFError) as error:
            raise ValueError(f"cannot read from the zip: {error}") from error

    def stamp(self, path: str) -> tuple[int, int]:
        """Returns a file's size and CRC-32 from the zip's directory, (0, 0) if it is missing."""
        member = self._members()[1].get(path)
        return (member.file_size, member.CRC) if member else (0, 0)

    def _members(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        if os.getpid() not in self._opened:
            try:
                archive = zipfile.ZipFile(self.archive)
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"cannot read {self.archive}: {error}; give a complete .zip file") from error
            infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            names = _visible(infos)
            tops = {name.split("/", 1)[0] for name in names if "/" in name}
            skip = len(tops.copy().pop()) + 1 if len(tops) == 1 and all("/" in name for name in names) else 0
            self._opened[os.getpid()] = archive, {name[skip:]: infos[name] for name in names}
        return self._opened[os.getpid()]


def _visible(paths: Iterable[str]) -> list[str]:
    """Returns the paths without hidden parts, absolute paths, `..` and the folders that macOS adds to a zip, sorted."""
    return sorted(
        path
        for path in paths
        if not path.startswith("/") and not any(part.startswith((".", "__MACOSX")) for part in path.split("/"))
    )


def _raise(error: OSError) -> None:
    raise error
