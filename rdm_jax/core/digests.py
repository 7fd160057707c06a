"""The SHA-256 of large files, computed once and kept in the cache folder until the file changes."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from rdm_jax.core import files, storage

_LOG = logging.getLogger(__name__)

LARGE = 2**28  # bytes; reading more takes a while


def kept_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes; reads the file again only when its size or date has changed."""
    path = path.resolve()
    status = path.stat()
    identity = files.sha256_json([str(path), status.st_size, status.st_mtime_ns])
    record = storage.cache_folder() / "digests" / identity[:2] / identity[2:]
    with contextlib.suppress(OSError):
        return record.read_bytes().decode()
    if status.st_size > LARGE:
        _LOG.info("reading %s for its hash, %d MB, once", path.name, status.st_size >> 20)
    digest = files.sha256(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        record.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(record, digest.encode())
    return digest
