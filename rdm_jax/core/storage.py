"""Folders in object storage, by way of fsspec: copied to the local disk before they are memory-mapped.

`gs://` needs gcsfs, `s3://` s3fs; the extra "gcs" installs the first.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from rdm_jax.core import files, paths
from rdm_jax.core.errors import UserError

IDENTITY = ("size", "etag", "ETag", "md5Hash", "updated", "mtime", "LastModified", "created")
"""Metadata that changes with the content of a file; each file system provides some of it."""


def cache_folder() -> Path:
    """Returns the folder of local copies: $RDM_CACHE, or rdm_jax in the user's cache folder."""
    given = os.environ.get("RDM_CACHE")
    return paths.local(given or "~/.cache/rdm_jax")


def staged(address: str, manifest: str) -> Path:
    """Returns a local copy of a folder, made now unless one of the same manifest is there already.

    Args:
      address: such as gs://bucket/folder.
      manifest: the name of the file in it that describes the others.

    Raises:
      UserError: nothing is there, it cannot be read, or the file system's package is missing.
    """
    system, root = _open(address)
    try:
        content = system.cat_file(f"{root}/{manifest}")
    except OSError as error:
        raise UserError(f"{address} has no {manifest} that can be read ({error}); check the address") from error
    folder = cache_folder() / "staged" / hashlib.sha256(address.encode() + content).hexdigest()[:32]
    if not folder.is_dir():
        with files.new_directory(folder, first_wins=True) as temporary:
            try:
                system.get(f"{root}/", f"{temporary}/", recursive=True)
            except OSError as error:
                raise UserError(f"cannot copy {address} to {folder.parent}: {error}") from error
    return folder


def fetched(address: str) -> Path:
    """Returns a local copy, of its own name, of a file or a folder; made anew when names, sizes or dates there change.

    Raises:
      UserError: nothing is there, it cannot be copied, or the file system's package is missing.
    """
    system, root = _open(address)
    try:
        listed = system.find(root, detail=True)
    except OSError as error:
        raise UserError(f"cannot read {address}: {error}") from error
    if not listed:
        raise UserError(f"nothing is at {address}; check the address")
    identities = [(name, *(str(listed[name].get(key)) for key in IDENTITY)) for name in sorted(listed)]
    folder = cache_folder() / "fetched" / files.sha256_json([address, identities])[:32]
    if not folder.is_dir():
        with files.new_directory(folder, first_wins=True) as temporary:
            copy = temporary / root.rpartition("/")[2]
            try:
                if root in listed:
                    system.get_file(root, str(copy))
                else:
                    system.get(f"{root}/", f"{copy}/", recursive=True)
            except OSError as error:
                raise UserError(f"cannot copy {address} to {folder.parent}: {error}") from error
    return folder / root.rpartition("/")[2]


def upload(folder: Path, address: str, last: str) -> None:
    """Copies a folder to object storage, the file `last` at the end: who sees it there sees all others.

    Raises:
      UserError: something is there already, or it cannot be written.
    """
    system, root = _open(address)
    if system.exists(f"{root}/{last}"):
        raise UserError(f"{address} exists already; choose another place or remove it first")
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    try:
        for path in [*(path for path in paths if path != last), last]:
            put(folder / path, f"{address.rstrip('/')}/{path}")
    except OSError as error:
        raise UserError(f"cannot write to {address}: {error}") from error


def put(file: Path, address: str) -> None:
    """Copies one file to object storage."""
    system, path = _open(address)
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    system.put_file(str(file), path)


def names(address: str) -> list[str]:
    """Returns the names of the files in a folder, none where there is no such folder."""
    system, path = _open(address)
    try:
        return sorted(found.rpartition("/")[2] for found in system.ls(path, detail=False))
    except FileNotFoundError:
        return []


def read(address: str) -> bytes:
    """Returns a file's bytes."""
    system, path = _open(address)
    return system.cat_file(path)


def write(address: str, data: bytes) -> None:
    """Writes a file."""
    system, path = _open(address)
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    system.pipe_file(path, data)


def remove(address: str) -> None:
    """Removes a folder with all that is in it."""
    system, path = _open(address)
    system.rm(path, recursive=True)


def _open(address: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot open {address}: {error}; gs:// needs pip install rdm_jax[gcs]") from error
    return system, root.rstrip("/")
