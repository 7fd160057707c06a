"""Images that are files of a folder or a zip, with their captions.

Captions come, in this order, from `metadata.jsonl` (keys `file_name` and `text`; the others become attributes),
`metadata.csv`, a text file beside the image (same path with another suffix), or the name of the folder that contains
the image. Any folder may have metadata files; their file names are relative to it. An image in a sub-folder has the
topmost folder as its attribute "folder", so that the collections of a folder can be distinguished.

A file name in metadata, and the name of a text file, match an image as `core.text.same_name` compares names; the image
keeps its own path. Files that are no images and caption none, and rows of metadata without an image, are reported.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import json
import logging
import posixpath
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rdm_jax.core import images, text
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.files import sha256_json
from rdm_jax.core.left_out import LeftOut
from rdm_jax.data.examples import Example
from rdm_jax.data.fields import as_text
from rdm_jax.data.file_trees import MAX_BYTES, FileTree, Listing

_LOG = logging.getLogger(__name__)

SPLITS = ("train", "validation", "valid", "val", "test")
SIDECAR = ".txt"
SHOWN = 80  # letters of a row in an error

T = TypeVar("T")
Row = tuple[int, Mapping[str, Any]]
"""The line of a row in its file, and its values."""


class NoImages(UserError):
    """A folder or a zip has no file of an image."""


@dataclasses.dataclass(frozen=True)
class _Entry:
    path: str
    caption: str
    attributes: dict[str, str]


class _ByName(Mapping[str, T]):
    """Values by path; a path that is not among them takes the value of one with the same name."""

    def __init__(self, values: Mapping[str, T]) -> None:
        self._values = values
        self._same: dict[str, T] = {}
        for path, value in values.items():
            self._same.setdefault(_key(path), value)

    def __getitem__(self, path: str) -> T:
        return self._values[path] if path in self._values else self._same[_key(path)]

    def has(self, path: str) -> bool:
        """Returns whether there is a value of exactly this path."""
        return path in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclasses.dataclass(frozen=True)
class _Metadata:
    """What metadata files say of images, by the images' own paths.

    Attributes:
      entries: each with the name of the file type that it comes from.
      files: the paths of the metadata files.
      missing: (path, reason) of rows that describe no image of the set.
    """

    entries: dict[str, tuple[_Entry, str]]
    files: list[str]
    missing: list[tuple[str, str]]


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


def open_files(name: str, files: FileTree, split: str | None, listing: Listing | None = None) -> FileSource:
    """Returns the source of a file tree, or of one of its splits.

    Args:
      name: the name of the source.
      files: the files.
      split: the sub-folder "train", "validation" or "test"; all files if None.
      listing: of the files, if it is known.

    Raises:
      UserError: there are no images, there is no such split, or the metadata cannot be read.
    """
    listing = listing or files.listing()
    image_paths = {path for path in listing.paths if _suffix(path) in images.suffixes()}
    metadata = _metadata(files, listing.paths)
    sidecars = {path[: -len(SIDECAR)]: path for path in listing.paths if _suffix(path) == SIDECAR}
    selected = sorted(image_paths | metadata.entries.keys())
    if split is not None:
        splits = sorted({path.split("/", 1)[0] for path in selected if "/" in path} & set(SPLITS))
        selected = [path for path in selected if path.startswith(f"{split}/")]
        if not selected:
            raise unknown("split", split, splits, hint="a folder's splits are its sub-folders train, validation, test")
    left_out = _left_out(listing, selected, metadata, sidecars, f"{split}/" if split else "")
    if not selected:
        others = f"; {left_out}" if len(left_out) else ""
        types = " ".join(sorted(images.suffixes()))
        raise NoImages(f"no images in {name}; give a folder or .zip with files of type {types}{others}")
    if len(left_out):
        _LOG.warning("%s: %s", name, str(left_out))
    entries, used, captions = [], Counter[str](), _ByName(sidecars)
    for path in selected:
        entry, origin = _entry(path, files, metadata.entries, captions)
        entries.append(dataclasses.replace(entry, attributes={**_collection(path), **entry.attributes}))
        used[origin] += 1
    origins = ", ".join(f"{origin} ({count})" for origin, count in used.most_common())
    return FileSource(name=name, captions=origins, files=files, entries=tuple(entries))


def _left_out(
    listing: Listing, selected: Sequence[str], metadata: _Metadata, sidecars: Mapping[str, str], folder: str
) -> LeftOut:
    """Returns what below a folder is no image, and describes none."""
    stems = _ByName({posixpath.splitext(path)[0]: path for path in selected})
    used = {*selected, *metadata.files, *(path for stem, path in sidecars.items() if stem in stems)}
    others = [(path, _reason(path)) for path in listing.paths if path not in used]
    left_out = LeftOut()
    for path, reason in [*others, *listing.unusable, *metadata.missing]:
        if path.startswith(folder):
            left_out.add(path, reason)
    return left_out


def _reason(path: str) -> str:
    if _suffix(path) == SIDECAR:
        return f"{SIDECAR} without an image"
    return _suffix(path) or "without a suffix"


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


def _key(path: str) -> str:
    return posixpath.normpath(text.same_name(path))


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _metadata(files: FileTree, paths: Sequence[str]) -> _Metadata:
    """Returns what all metadata files say; jsonl has precedence over csv."""
    metadata, real = _Metadata({}, [], []), _ByName({path: path for path in paths})
    for name, parse in (("metadata.csv", _csv_rows), ("metadata.jsonl", _jsonl_rows)):
        for file in paths:
            if posixpath.basename(file) != name:
                continue
            metadata.files.append(file)
            described: set[str] = set()
            for line, row in parse(file, _text(files, file)):
                entry = _metadata_entry(f"{file}, line {line}", posixpath.dirname(file), row, real)
                if entry.path in described:
                    metadata.missing.append((entry.path, f"row of {name} whose image a later row describes too"))
                described.add(entry.path)
                if entry.path in real:
                    metadata.entries[entry.path] = entry, name
                else:
                    metadata.missing.append((entry.path, f"row of {name} whose image does not exist"))
            if not described:
                raise UserError(f"{file} has no rows; describe an image in each row, or remove the file")
    return metadata


def _metadata_entry(place: str, folder: str, row: Mapping[str, Any], real: _ByName[str]) -> _Entry:
    """Returns the entry of a row, with the own path of its image where there is one.

    Args:
      place: of the row, for errors.
      folder: that the file name is relative to.
      row: its values.
      real: the files of the set by their names.
    """
    if not row.get("file_name"):
        raise UserError(f"{place}: a row without file_name ({_shown(dict(row))}); every row must name its image")
    given = posixpath.normpath(posixpath.join(folder, str(row["file_name"])))
    path = given if real.has(given) else _key(given)
    if path.startswith(("/", "../")) or path == "..":
        raise UserError(f"{place}: file_name {_shown(row['file_name'])} leaves the folder; use a path below it")
    key = "text" if "text" in row else "caption"
    attributes = {
        str(name): as_text(value) for name, value in row.items() if name not in ("file_name", key) and value is not None
    }
    return _Entry(real.get(path, path), str(row.get(key) or ""), attributes)


def _jsonl_rows(file: str, content: str) -> Iterable[Row]:
    for number, line in enumerate(text.lines(content), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            raise UserError(f"{file}, line {number}: not JSON ({reason}); write one object per line") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: {_shown(line)} is not a JSON object; write one object per line")
        yield number, row


def _csv_rows(file: str, content: str) -> Iterable[Row]:
    reader, rows = csv.reader(io.StringIO(content, newline=""), strict=True), []
    with _long_fields():
        try:
            names = _columns(file, next(reader, []))
            for values in filter(None, reader):
                rows.append((reader.line_num, _csv_row(f"{file}, line {reader.line_num}", names, values)))
        except csv.Error as error:
            reason = f"not CSV ({error}); quote values that contain commas, quotes or line breaks"
            raise UserError(f"{file}, line {reader.line_num}: {reason}") from error
    return rows


def _columns(file: str, names: list[str]) -> list[str]:
    """Returns the names of the columns, without unnamed ones at the end."""
    while names and not names[-1].strip():
        names = names[:-1]
    if "file_name" not in names:
        columns = _shown(", ".join(names)) if names else "nothing"
        raise UserError(f"{file}, line 1: no column file_name in the header ({columns}); write file_name,text there")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{file}, line 1: the header has column {_shown(twice[0])} more than once; keep one of them")
    return names


def _csv_row(place: str, names: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    if any(values[len(names) :]):
        raise UserError(
            f"{place}: a row has more values than the header ({_shown(values)}); quote values that contain commas"
        )
    return dict(zip(names, values, strict=False))


_LIMIT = threading.Lock()


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Lets a field of a CSV file be as long as a file may be; the limit belongs to the process."""
    with _LIMIT:
        before = csv.field_size_limit(MAX_BYTES)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _text(files: FileTree, path: str) -> str:
    try:
        content = text.decode(files.read(path))
    except ValueError as error:
        raise UserError(f"{path}: not readable as UTF-8 text ({error})") from error
    if "\0" in content:
        line = content.count("\n", 0, content.index("\0")) + 1
        raise UserError(f"{path}, line {line}: a null character, as in UTF-16; save it as UTF-8 text")
    return content


def _shown(value: Any) -> str:
    """Returns a value of the user for an error, cut to one short line."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
