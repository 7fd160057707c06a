"""The files of a folder or of a zip, by relative paths with forward slashes.

Links to folders are followed. What cannot be a file of the set (a broken link, a pipe, a folder that cannot be read) is
never opened; it is listed with the reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from rdm_jax.core.errors import UserError

MAX_BYTES = 256 * 2**20
CHUNK = 2**20
UTF8_NAME = 0x800  # the flag of a zip's member whose name is UTF-8
HIDDEN = ("thumbs.db", "desktop.ini")  # besides names that start with a dot, and the folders that macOS adds to a zip


class Listing(NamedTuple):
    """The contents of a file tree that are not hidden.

    Attributes:
      paths: of all files, sorted.
      unusable: (path, reason) of what is no file that can be read.
    """

    paths: list[str]
    unusable: list[tuple[str, str]]


@runtime_checkable
class FileTree(Protocol):
    """Files below a root by their relative paths."""

    def listing(self) -> Listing:
        """Returns the paths of all files, and what else is there."""
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

    def listing(self) -> Listing:
        """Returns the paths of all files, and what else is there.

        Raises:
          UserError: the folder cannot be read.
        """
        listing = Listing([], [])
        try:
            self._walk("", (), listing)
        except OSError as error:
            raise UserError(
                f"cannot read folder {self.root}: {error.strerror or error}; check its permissions"
            ) from error
        return Listing(sorted(listing.paths), sorted(listing.unusable))

    def read(self, path: str) -> bytes:
        """Returns a file's bytes."""
        file = self.root / path
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device would never end
                raise ValueError("no regular file")
            if status.st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            return file.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read: {error.strerror or error}") from error

    def stamp(self, path: str) -> tuple[int, int]:
        """Returns a file's size and CRC-32, (0, 0) if it is missing."""
        file = self.root / path
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                return 0, 0
            return status.st_size, _checksum(file) if status.st_size <= MAX_BYTES else 0
        except OSError:
            return 0, 0

    def _walk(self, folder: str, above: tuple[tuple[int, int], ...], listing: Listing) -> None:
        """Lists a folder and those below it; raises OSError if it cannot be read.

        Args:
          folder: its path, "" or with a slash at the end.
          above: the identities of the folders that contain it, also by way of links.
          listing: is filled.
        """
        place = self.root / folder
        status = place.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            listing.unusable.append((folder[:-1], "link to a folder that contains it"))
            return
        with os.scandir(place) as entries:
            visible = [entry for entry in entries if not _is_hidden(entry.name)]
        for entry in visible:
            path = folder + entry.name
            kind = _kind(entry)
            if kind == "folder":
                try:
                    self._walk(f"{path}/", (*above, here), listing)
                except OSError as error:
                    listing.unusable.append((path, f"folder that cannot be read: {error.strerror or error}"))
            elif kind == "file":
                listing.paths.append(path)
            else:
                listing.unusable.append((path, kind))


@dataclasses.dataclass(frozen=True)
class ZipFiles:
    """The files of a zip; a single top folder that contains all of them is not part of their paths."""

    archive: Path
    # Processes must not share a file handle, so each process opens its own.
    _opened: dict[int, _Archive] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"archive": self.archive}

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, "archive", state["archive"])
        object.__setattr__(self, "_opened", {})

    def listing(self) -> Listing:
        """Returns the paths of all files, and the names of members that would lie outside the folder."""
        archive = self._open()
        return Listing(sorted(archive.members), [(name, "outside the folder") for name in archive.outside])

    def read(self, path: str) -> bytes:
        """Returns a file's bytes."""
        archive = self._open()
        if path not in archive.members:
            raise ValueError("no such file in the zip")
        if archive.members[path].file_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        try:
            return archive.file.read(archive.members[path])
        except MemoryError:
            raise
        except Exception as error:  # each compression has errors of its own; they concern this file only
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"cannot read from the zip: {reason}") from error

    def stamp(self, path: str) -> tuple[int, int]:
        """Returns a file's size and CRC-32 from the zip's directory, (0, 0) if it is missing."""
        member = self._open().members.get(path)
        if member is None:
            return 0, 0
        return member.file_size, member.CRC if member.file_size <= MAX_BYTES else 0

    def _open(self) -> _Archive:
        if os.getpid() not in self._opened:
            try:
                file = zipfile.ZipFile(self.archive)
            except Exception as error:  # a damaged directory raises more than BadZipFile
                raise UserError(f"cannot read {self.archive}: {error}; give a complete .zip file") from error
            self._opened[os.getpid()] = _archive(file)
        return self._opened[os.getpid()]


class _Archive(NamedTuple):
    """An open zip, its visible files by their paths, and the names that would lie outside the folder."""

    file: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]
    outside: list[str]


def _archive(file: zipfile.ZipFile) -> _Archive:
    members, outside = {}, []
    for info in file.infolist():
        name = _name(info)
        parts = [part for part in name.split("/") if part != "."]
        if name.startswith("/") or ".." in parts:
            outside.append(name)
        elif parts[-1] and not any(map(_is_hidden, parts)):
            members["/".join(parts)] = info
    return _Archive(file, _without_top(members), outside)


def _name(info: zipfile.ZipInfo) -> str:
    """Returns the path of a zip's member.

    Names without the flag of UTF-8 are read as code page 437 by the standard, but many programs write UTF-8 there. A
    text of that code page that is valid UTF-8 by chance does not occur in practice. Old programs of Windows write
    backslashes.
    """
    name = info.filename
    if not info.flag_bits & UTF8_NAME:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _without_top(members: Mapping[str, zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Returns the members of a zip, without the single top folder if there is one."""
    tops = {name.partition("/")[0] for name in members if "/" in name}
    skip = len(next(iter(tops))) + 1 if len(tops) == 1 and all("/" in name for name in members) else 0
    return {name[skip:]: info for name, info in members.items()}


def _kind(entry: os.DirEntry[str]) -> str:
    """Returns "folder", "file", or why an entry of a folder is neither; links are followed."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "broken link" if entry.is_symlink() and not os.path.exists(entry.path) else "neither file nor folder"
    except OSError as error:
        return "broken link" if entry.is_symlink() else f"that cannot be read: {error.strerror or error}"


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name.lower() in HIDDEN


def _checksum(file: Path) -> int:
    value = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value
