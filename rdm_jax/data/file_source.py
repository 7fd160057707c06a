"""Images that are files of a folder or a zip, with their captions.

Captions come, in this order, from `metadata.jsonl` (keys `file_name` and `text`; the others become attributes),
`metadata.csv`, a text file beside the image (same path with another suffix), or the name of the folder that contains
the image. Any folder may have metadata files; their file names are relative to it. An image in a sub-folder has the
topmost folder as its attribute "folder", so that the collections of a folder can be distinguished.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rdm_jax.core import images
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.files import sha256_json
from rdm_jax.data.examples import Example
from rdm_jax.data.file_trees import FileTree

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
SPLITS = ("train", "validation", "valid", "val", "test")


@dataclasses.dataclass(frozen=True)
class _Entry:
    path: str
    caption: str
    attributes: dict[str, str]


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Images that are files, sorted by path."""

    name: str
    captions: str
    files: FileTree
    entries: tuple[_Entry, ...]

    @property
    def fingerprint(self) -> str:
        """A hash over the bytes of all images, their captions and attributes; reads a folder's files once."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return sha256_json([[e.path, *self.files.stamp(e.path), e.caption, e.attributes] for e in self.entries])

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of images: each one is a file."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Example:
        entry = self.entries[index]
        try:
            image = images.decode(self.files.read(entry.path))
        except ValueError as error:
            raise ValueError(f"{entry.path}: {error}") from error
        return Example(image, entry.caption, entry.path, entry.attributes)

    def labels(self, index: int) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of an example."""
        entry = self.entries[index]
        return {**entry.attributes, "path": entry.path, "caption": entry.caption}


def open_files(name: str, files: FileTree, split: str | None) -> FileSource:
    """Returns the source of a file tree, or of one of its splits.

    Args:
      name: the name of the source.
      files: the files.
      split: the sub-folder "train", "validation" or "test"; all files if None.

    Raises:
      UserError: there are no images, there is no such split, or the metadata cannot be read.
    """
    paths = files.paths()
    image_paths = {path for path in paths if path.lower().endswith(SUFFIXES)}
    metadata = _metadata(files, paths)
    sidecars = {path[: -len(".txt")]: path for path in paths if path.lower().endswith(".txt")}
    selected = sorted(image_paths | metadata.keys())
    if split is not None:
        splits = sorted({path.split("/", 1)[0] for path in selected if "/" in path} & set(SPLITS))
        selected = [path for path in selected if path.startswith(f"{split}/")]
        if not selected:
            raise unknown("split", split, splits, hint="a folder's splits are its sub-folders train, validation, test")
    if not selected:
        raise UserError(f"no images in {name}; give a folder or .zip with files of type {' '.join(SUFFIXES)}")
    entries, used = [], Counter[str]()
    for path in selected:
        entry, origin = _entry(path, files, metadata, sidecars)
        entries.append(dataclasses.replace(entry, attributes={**_collection(path), **entry.attributes}))
        used[origin] += 1
    origins = ", ".join(f"{origin} ({count})" for origin, count in used.most_common())
    return FileSource(name=name, captions=origins, files=files, entries=tuple(entries))


def _entry(
    path: str, files: FileTree, metadata: Mapping[str, tuple[_Entry, str]], sidecars: Mapping[str, str]
) -> tuple[_Entry, str]:
    """Returns an image's entry and the origin of its caption."""
    if path in metadata and metadata[path][0].caption:
        return metadata[path]
    attributes = metadata[path][0].attributes if path in metadata else {}
    stem = posixpath.splitext(path)[0]
    if stem in sidecars:
        return _Entry(path, _text(files, sidecars[stem]).strip(), attributes), "text files"
    folder = posixpath.basename(posixpath.dirname(path))
    if folder and folder not in SPLITS:
        return _Entry(path, folder.replace("_", " "), {"label": folder, **attributes}), "folder names"
    return _Entry(path, "", attributes), "none"


def _collection(path: str) -> dict[str, str]:
    top, slash, _ = path.partition("/")
    return {"folder": top} if slash and top not in SPLITS else {}


def _metadata(files: FileTree, paths: list[str]) -> dict[str, tuple[_Entry, str]]:
    """Returns the entries of all metadata files with the name of the file type; jsonl has precedence over csv."""
    entries: dict[str, tuple[_Entry, str]] = {}
    for name, parse in (("metadata.csv", _csv_rows), ("metadata.jsonl", _jsonl_rows)):
        for file in paths:
            if posixpath.basename(file) == name:
                for row in parse(file, _text(files, file)):
                    entry = _metadata_entry(file, row)
                    entries[entry.path] = entry, name
    return entries


def _metadata_entry(file: str, row: Mapping[str, Any]) -> _Entry:
    if not row.get("file_name"):
        raise UserError(f"{file}: a row without file_name ({dict(row)}); every row must name its image")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(file), str(row["file_name"])))
    if path.startswith(("/", "..")):
        raise UserError(f"{file}: file_name {row['file_name']!r} leaves the folder; use a path below it")
    key = "text" if "text" in row else "caption"
    attributes = {
        str(name): value if isinstance(value, str) else json.dumps(value)
        for name, value in row.items()
        if name not in ("file_name", key) and value is not None
    }
    return _Entry(path, str(row.get(key) or ""), attributes)


def _jsonl_rows(file: str, text: str) -> Iterable[Mapping[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{file}, line {number}: not JSON ({error.msg}); write one object per line") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: {line[:60]!r} is not a JSON object; write one object per line")
        yield row


def _csv_rows(file: str, text: str) -> Iterable[Mapping[str, Any]]:
    for row in csv.DictReader(io.StringIO(text)):
        if None in row:
            raise UserError(f"{file}: a row has more values than the header ({row}); quote values that contain commas")
        yield row


def _text(files: FileTree, path: str) -> str:
    try:
        return files.read(path).decode("utf-8-sig")
    except ValueError as error:
        raise UserError(f"{path}: not readable as UTF-8 text ({error})") from error
