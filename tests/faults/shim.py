"""A shim between the program and the system: it counts the steps that change files, and makes one of them fail.

A step ("point") is one call that creates, writes, flushes, renames, links, or removes a file or a folder below a root.
Python's own calls are replaced one by one. Libraries that write from C++ or Rust are one point each, at the call that
writes the file. Three faults:

- KILL: the folder is copied as it is at the step, half of whose data is written. The copy is what a process
  leaves that is killed there: no `finally` has tidied up. The program itself runs on.
- FULL: from the step on, nothing new can be written, and removing still works.
- GONE: a folder is removed just before the step.
"""

from __future__ import annotations

import _pyio
import contextlib
import errno
import io
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KILL, FULL, GONE = "kill", "full", "gone"
FAULTS = (KILL, FULL, GONE)
# On a full disk these fail, and the others succeed.
GROWING = ("create", "write", "fsync", "mkdir", "rename", "replace", "link", "file")
CHANGING = ("fsync", "rename", "replace", "link", "mkdir", "unlink", "remove", "rmdir", "chmod", "utime", "truncate")


class Shim:
    """Counts the points below a root and injects a fault at one of them, while its block runs.

    Args:
      root: points of other folders are not counted.
      fault: one of `FAULTS`; "" to count alone.
      at: the number of the point.
      folder: the folder that GONE removes, or the copy that KILL makes.

    Attributes:
      points: the points so far, each as "kind path".
      injected: whether point `at` was reached.
    """

    def __init__(self, root: Path, fault: str = "", at: int = -1, folder: Path | None = None) -> None:
        self.points: list[str] = []
        self.injected = False
        self._root, self._fault, self._at, self._folder = root, fault, at, folder or root
        self._lock = threading.RLock()  # libraries write in threads
        self._off = False  # while the shim itself changes files
        self._patches = pytest.MonkeyPatch()

    def __enter__(self) -> Shim:
        for name in CHANGING:
            self._patches.setattr(os, name, self._step(name, getattr(os, name)))
        self._patches.setattr(os, "open", self._os_open(os.open))
        self._patches.setattr(os, "write", self._os_write(os.write))
        self._patches.setattr(os, "sendfile", self._step("write", os.sendfile))
        for module in ("builtins.open", "io.open"):  # one function of two names
            self._patches.setattr(module, self._open(io.open))
        self._patch_libraries()
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.undo()

    def point(self, kind: str, path: str | None, data: Any = b"", offset: int = 0) -> bool:
        """Counts a point, and raises its fault.

        Args:
          kind: of the step.
          path: of the file; None outside the root.
          data: what will be written.
          offset: where in the file.

        Returns:
          whether the fault is at this point.
        """
        if path is None or self._off:
            return False
        with self._lock:
            number = len(self.points)
            self.points.append(f"{kind} {os.path.relpath(path, self._root)}")
            here = number == self._at
            self.injected |= here
            if here and self._fault == GONE:
                with self.off():
                    shutil.rmtree(self._folder, ignore_errors=True)
            if here and self._fault == KILL and kind != "file":
                self._copy(path, offset, bytes(data)[: len(bytes(data)) // 2])
            if self.is_full and kind in GROWING and kind != "file":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return here

    def _copy(self, path: Any, offset: int = 0, data: bytes = b"") -> Path:
        """Copies the root with half of what is being written, and returns the place of a file in the copy."""
        with self.off(), contextlib.suppress(shutil.Error):  # other threads remove files meanwhile
            shutil.copytree(self._root, self._folder, symlinks=True)
        copied = self._folder / os.path.relpath(path, self._root)
        with self.off():
            if data and copied.is_file():
                with open(copied, "r+b") as file:
                    file.seek(offset)
                    file.write(data)
        return copied

    @property
    def is_full(self) -> bool:
        """Whether the disk is full."""
        return self._fault == FULL and self.injected

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Counts nothing while the block runs."""
        before, self._off = self._off, True
        try:
            yield
        finally:
            self._off = before

    def inside(self, path: Any, folder: int | None = None) -> str | None:
        """Returns the absolute path of a file below the root, None of another one.

        Args:
          path: a path or a file descriptor.
          folder: the descriptor of the folder that a relative path is in.
        """
        try:
            if isinstance(path, int):
                place = os.readlink(f"/proc/self/fd/{path}")
            else:
                base = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
                place = os.path.normpath(os.path.join(base, os.fsdecode(path)))
        except OSError:  # the working folder or the descriptor is gone
            return None
        return place if place.startswith(f"{self._root}/") else None

    def _step(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            folder = options.get("dir_fd") or options.get("src_dir_fd")
            paths = args[:2] if kind in ("rename", "replace", "link") else args[:1]
            place = next((one for one in (self.inside(path, folder) for path in paths) if one), None)
            self.point(kind, place)
            return function(*args, **options)

        return step

    def _os_open(self, function: Callable[..., int]) -> Callable[..., int]:
        def step(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & (os.O_CREAT | os.O_TRUNC):
                self.point("create", self.inside(path, dir_fd))
            return function(path, flags, mode, dir_fd=dir_fd)

        return step

    def _os_write(self, function: Callable[..., int]) -> Callable[..., int]:
        def step(file: int, data: Any) -> int:
            if place := self.inside(file):
                self.point("write", place, data, os.lseek(file, 0, os.SEEK_CUR))
            return function(file, data)

        return step

    def _open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            place = self.inside(file)
            if place is None or not set(mode) & set("wxa+"):
                return function(file, mode, buffering, encoding, errors, newline, closefd, opener)
            if not isinstance(file, int):
                self.point("create", place)
            raw = _Raw(self, file, "".join(set(mode) - set("bt")), closefd, opener)
            if buffering == 0:
                return raw
            # Not io's own classes: NumPy writes to the descriptors of those from C.
            kind = _pyio.BufferedRandom if "+" in mode else _pyio.BufferedWriter
            return kind(raw) if "b" in mode else io.TextIOWrapper(kind(raw), encoding, errors, newline)

        return step

    def _patch_libraries(self) -> None:
        import array_record.python.array_record_module as array_record
        import pyarrow.parquet
        import safetensors.numpy

        save_file, write_table, writer = (
            safetensors.numpy.save_file,
            pyarrow.parquet.write_table,
            array_record.ArrayRecordWriter,
        )
        patch = self._patches.setattr
        patch(safetensors.numpy, "save_file", lambda tensors, path: self._file(path, save_file, tensors, path))
        patch(
            pyarrow.parquet,
            "write_table",
            lambda table, path, **options: self._file(path, write_table, table, path, **options),
        )
        patch(array_record, "ArrayRecordWriter", lambda path, options: _Records(self, writer, path, options))

    def _file(self, path: Any, write: Callable[..., None], *args: Any, **options: Any) -> None:
        """Lets a library write a file, half of it at the kill; a full disk is a limit of zero bytes for a file."""
        here = self.point("file", self.inside(path))
        with self.off(), _no_room() if self.is_full else contextlib.nullcontext():
            write(*args, **options)
        if here and self._fault == KILL:
            copied = self._copy(path)
            with self.off():
                os.truncate(copied, copied.stat().st_size // 2)


class _Raw(io.FileIO):
    """A file each of whose writes is a point."""

    def __init__(self, shim: Shim, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        super().__init__(file, mode, closefd, opener)
        self._shim = shim

    def write(self, data: Any) -> int:
        """Writes data."""
        self._shim.point("write", self._shim.inside(self.fileno()), data, self.tell())
        return super().write(data)


class _Records:
    """An ArrayRecordWriter that writes when it is closed."""

    def __init__(self, shim: Shim, writer: Callable[..., Any], path: str, options: str) -> None:
        self._shim, self._writer, self._path, self._options = shim, writer, path, options
        self._records: list[bytes] = []

    def write(self, record: bytes) -> None:
        """Keeps a record."""
        self._records.append(record)

    def close(self) -> None:
        """Writes the file."""
        self._shim._file(self._path, self._write)

    def _write(self) -> None:
        writer = self._writer(self._path, self._options)
        for record in self._records:
            writer.write(record)
        writer.close()


@contextlib.contextmanager
def _no_room() -> Iterator[None]:
    """Lets no file of this process grow: the libraries' own errors, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
