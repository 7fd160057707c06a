"""A small archive in the layout of the npm package of icon sets."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SQUARE = '<rect x="6" y="6" width="12" height="12" fill="currentColor"/>'
DISK = '<circle cx="12" cy="12" r="7" fill="#ff0000"/>'
NOTHING = '<path d="M0 0"/>'


def info(name: str = "A set", spdx: str = "MIT", **more: Any) -> dict[str, Any]:
    """Returns the description of a set."""
    author = {"name": f"Author of {name}", "url": "https://author.test"}
    return {"name": name, "author": author, "license": {"spdx": spdx, "url": "https://license.test"}, **more}


def write_archive(path: Path, infos: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]]) -> Path:
    """Writes the archive and returns its path.

    Args:
      path: of the archive.
      infos: the description of each set by prefix.
      sets: the content of each set's file by prefix, without the prefix itself.
    """
    with tarfile.open(path, "w:gz") as tar:
        _add(tar, "package/package.json", {"name": "@iconify/json"})
        for prefix, content in sets.items():
            _add(tar, f"package/json/{prefix}.json", {"prefix": prefix, **content})
        _add(tar, "package/collections.json", infos)
    return path


def _add(tar: tarfile.TarFile, name: str, value: Any) -> None:
    data = json.dumps(value).encode()
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
