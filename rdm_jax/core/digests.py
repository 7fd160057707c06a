"""The SHA-256 of large files, computed once and kept in the cache folder until the file changes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rdm_jax.core import files, storage


def kept_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes; reads the file again only when its size or date has changed."""
    path = path.resolve()
    status = path.stat()
    identity = files.sha256_json([str(path), status.st_size, status.st_mtime_ns])
    record = storage.cache_folder() / "digests" / identity[:2] / identity[2:]
    with contextlib.suppress(OSError):
        return record.read_bytes().decode()
    digest = files.sha256(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        record.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(record, digest.encode())
    return digest
