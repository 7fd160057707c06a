"""Files and folders that are written whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdm_jax.core.errors import UserError, first_line

# The end of the name of a folder that is being made.
NEW = ".new"
# EFBIG: more than the shell's `ulimit -f`.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
GONE = (errno.ENOENT, errno.ESTALE)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# The answers of file systems that have no hard links.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_bytes(path: Path, data: bytes, *, new: bool = False) -> None:
    """Writes a file by a temporary sibling and a rename, so that a reader sees the old file or the new one.

    Args:
      path: the file.
      data: its content.
      new: raises FileExistsError if there is a file of this name; of several processes one writes it.
    """
    with replaced(path, new=new) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replaced(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Yields an empty temporary sibling that takes the place of `path` when the block ends well, and vanishes else.

    Args:
      path: the file.
      new: raises FileExistsError if there is a file of this name already.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        share(temporary)
        (_take_new_name if new else os.replace)(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def share(path: Path) -> None:
    """Gives a file the permissions that the user's umask gives to new files."""
    path.chmod(0o666 & ~_umask())


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Returns a value as indented JSON that ends its last line."""
    return (json.dumps(value, indent=2) + "\n").encode()


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raises UserError for an OSError inside the block, which writes to a place: the disk is full, say."""
    try:
        yield
    except OSError as error:
        raise unwritten(place, error) from error


def unwritten(place: Path, error: OSError) -> UserError:
    """Returns the error for a place that cannot be written to, with what to do about it."""
    reason = os.strerror(error.errno) if error.errno else first_line(error)
    if error.errno in FORBIDDEN:
        return UserError(f"cannot write to {place}: {reason}; choose a folder that can be written")
    if error.errno in GONE:
        return UserError(f"cannot write to {place}: it was removed meanwhile ({reason}); run the same command again")
    advice = "make room there" if error.errno in FULL else "check the folder and its disk"
    return UserError(f"cannot write to {place}: {reason}; {advice}, and run the same command again")


@contextlib.contextmanager
def library_writes(*kinds: type[Exception]) -> Iterator[None]:
    """Raises an OSError for the errors of a library that writes files itself and has types of its own for its errors.

    Args:
      kinds: the types; an error whose text names no error of the system is raised as it is.
    """
    try:
        yield
    except kinds as error:
        code = next((code for code in errno.errorcode if os.strerror(code) in str(error)), None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code)) from error


@contextlib.contextmanager
def new_directory(path: Path, first_wins: bool = False, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends well and vanishes when it does not.

    Args:
      path: the folder to make.
      first_wins: processes make the same folder (a cache): where another one was faster, its folder stays.
      replace: a folder that is there already is removed once the new one has taken its place; see `recover`.

    Raises:
      UserError: `path` exists, or its parent cannot be written.
    """
    path = path.resolve() if replace else path  # a link to a folder stays, and the folder is replaced
    exists = UserError(f"{path} exists already; choose another folder or remove it first")
    if path.exists() and not (first_wins or replace):
        raise exists
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(NEW, f".{path.name}.", path.parent))
    except OSError as error:
        raise unwritten(path.parent, error) from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if replace:
            _take_place(temporary, path)
            return
        try:
            temporary.rename(path)
        except OSError as error:
            if not path.exists():
                raise
            if not first_wins:
                raise exists from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(lock: Path, what: Path | str, wait: bool = False) -> Iterator[None]:
    """Holds a lock file while the block runs; a killed process lets go of it.

    Args:
      lock: the file.
      what: is written under the lock, for the message.
      wait: for another process that has it.

    Raises:
      UserError: another process has it, or the file cannot be written.
    """
    import filelock

    held = filelock.FileLock(lock)
    try:
        held.acquire(blocking=wait)
    except filelock.Timeout as error:
        raise UserError(f"another process is writing to {what}; wait for it, or stop it first") from error
    except OSError as error:
        raise unwritten(lock.parent, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


def is_locked(lock: Path) -> bool:
    """Says whether another process holds a lock file."""
    try:
        with locked(lock, lock):
            return False
    except UserError:
        return True


def recover(path: Path) -> None:
    """Puts a folder back whose replacement was killed between the two renames."""
    old = _replaced_name(path)
    if old.is_dir() and not path.exists():
        with contextlib.suppress(OSError):  # another process was quicker
            old.rename(path.resolve())


def forget(path: Path) -> None:
    """Removes what killed processes have left beside a folder: half of a new one, and the one that it was to replace.

    No other process may be writing the folder.
    """
    recover(path)
    path = path.resolve()
    halves = [one for one in path.parent.glob("*" + NEW) if one.name.startswith(f".{path.name}.")]
    for leftover in [*halves, _replaced_name(path)]:
        shutil.rmtree(leftover, ignore_errors=True)


def allow_open(count: int) -> None:
    """Raises the limit of this process's open files to what the system allows, if it is near to `count` files more."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit, macOS refuses its own
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and 4 * count > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _take_place(temporary: Path, path: Path) -> None:
    """Renames a folder to `path`, and removes the one that was there."""
    old = _replaced_name(path)
    while True:
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if path.exists():  # a reader came between the two renames and put the old folder back
                continue
            recover(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return


def _take_new_name(temporary: Path, path: Path) -> None:
    """Renames a file to a name that no file has, for one of several processes; raises FileExistsError in the others."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(path, "xb"):  # reserves the name
            os.replace(temporary, path)
        return
    os.unlink(temporary)


def _replaced_name(path: Path) -> Path:
    path = path.resolve()
    return path.parent / f".{path.name}.replaced"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
