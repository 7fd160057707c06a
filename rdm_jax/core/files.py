"""Files and folders that are written whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdm_jax.core.errors import UserError


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file by a temporary sibling and a rename, so that a reader sees the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        share(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def share(path: Path) -> None:
    """Gives a file the permissions that the user's umask gives to new files."""
    path.chmod(0o666 & ~_umask())


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


@contextlib.contextmanager
def new_directory(path: Path, first_wins: bool = False) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends well and vanishes when it does not.

    Args:
      path: the folder to make.
      first_wins: processes make the same folder (a cache): where another one was faster, its folder stays.

    Raises:
      UserError: `path` exists, or its parent cannot be written.
    """
    exists = UserError(f"{path} exists already; choose another folder or remove it first")
    if path.exists() and not first_wins:
        raise exists
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise UserError(
            f"cannot write to {path.parent}: {error.strerror}; choose a folder that can be written"
        ) from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        try:
            temporary.rename(path)
        except OSError as error:
            if not path.exists():
                raise
            if not first_wins:
                raise exists from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
