"""Pictures with captions from a folder, a zip of one, or a TFDS set, each picture by its number.

Captions of a folder come, in this order, from `metadata.jsonl` (keys `file_name` and `text`, the others become
attributes), `metadata.csv`, a text file beside the picture (same path but for the suffix), or the name of the folder
that the picture lies in. Metadata files may lie in any folder; their file names are relative to it. A picture in a
sub-folder has the topmost one as its attribute "folder", so that a folder of collections can be told apart.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import os
import posixpath
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core import images, storage
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.files import sha256_json
from rdm_jax.data.selection import Selection

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
SPLITS = ("train", "validation", "valid", "val", "test")
MAX_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class Example:
    """One picture, uint8 RGB, with what is known of it.

    Attributes:
      image: [h, w, 3] the picture.
      caption: its text, "" if it has none.
      path: its place below the source's root, with forward slashes.
      attributes: what else its source says, as texts.
    """

    image: UInt8[np.ndarray, "h w 3"]
    caption: str
    path: str
    attributes: Mapping[str, str]


@runtime_checkable
class Source(Protocol):
    """Examples by their number; `source[i]` raises ValueError with a reason where the picture is broken."""

    @property
    def name(self) -> str:
        """A short name, for reports and as the default name of a database."""
        ...

    @property
    def captions(self) -> str:
        """Where the captions come from, in a few words."""
        ...

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when pictures, captions or their order do."""
        ...

    @property
    def shard_lengths(self) -> Sequence[int]:
        """How many examples each of its files holds, in their order; one number where they are not stored together."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...

    def told(self, index: int, /) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of an example without decoding its picture."""
        ...


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Some examples of a source, as a source.

    Attributes:
      source: where they are from.
      rows: their numbers there.
    """

    source: Source
    rows: Sequence[int]

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    @property
    def captions(self) -> str:
        """Where the captions come from."""
        return self.source.captions

    @property
    def fingerprint(self) -> str:
        """A hash over the source's own and the chosen numbers."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return sha256_json([self.source.fingerprint, list(self.rows)])

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of all examples: they are not stored together."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.rows[index]]

    def told(self, index: int) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of an example."""
        return self.source.told(self.rows[index])


def choose(source: Source, selection: Selection, limit: int | None = None) -> Source:
    """Returns the examples of a source that a selection admits, the first `limit` of them.

    Raises:
      UserError: none are left.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit} leaves no pictures; give 1 or more")
    rows: Sequence[int] = range(len(source))
    if selection:
        rows = [row for row in rows if selection.admits(source.told(row))]
    if not len(rows):
        raise UserError(f"no pictures of {source.name} are left; check --where and the exclusions")
    return source if len(rows[:limit]) == len(source) else Chosen(source, rows[:limit])


def open_source(spec: str, split: str | None = None, data_dir: str | None = None) -> Source:
    """Opens a folder, a .zip of one, a prepared TFDS folder, or a TFDS set by its name.

    Args:
      spec: a path, the address of one in object storage, which is copied to the local disk first, or a name such as
        "style_scenes/tiny".
      split: for folders the sub-folder "train", "validation" or "test"; for TFDS a split such as "train[:1000]".
        All of a folder, or TFDS's "train", if None.
      data_dir: where TFDS keeps its sets; its own default if None.

    Raises:
      UserError: nothing of this name, no pictures in it, no such split, or metadata that cannot be read.
    """
    path = storage.fetched(spec) if storage.is_remote(spec) else Path(spec).expanduser()
    if path.is_dir():
        if (path / "dataset_info.json").is_file():
            from rdm_jax.data.tfds_source import open_tfds_folder

            return open_tfds_folder(path, split)
        return _open_files(path.resolve().name, FolderFiles(path), split)
    if path.suffix.lower() == ".zip" and path.is_file():
        return _open_files(path.stem, ZipFiles(path), split)
    if path.exists():
        raise UserError(f"{spec} is neither a folder nor a .zip of pictures; give one of these or a TFDS name")
    if path.is_absolute() or path.suffix.lower() == ".zip" or spec.startswith("."):
        raise UserError(f"no folder or .zip {spec}; check the path")
    from rdm_jax.data.tfds_source import open_tfds

    return open_tfds(spec, split, data_dir)


@runtime_checkable
class Files(Protocol):
    """Files below a root by their relative paths with forward slashes."""

    def paths(self) -> list[str]:
        """Returns the paths of all files that are not hidden, sorted."""
        ...

    def read(self, path: str) -> bytes:
        """Returns a file's bytes; raises ValueError where it is missing, unreadable or over `MAX_BYTES`."""
        ...

    def stamp(self, path: str) -> tuple[int, int]:
        """Returns a file's size and CRC-32, (0, 0) where it is missing; the same for a folder and its zip."""
        ...


@dataclasses.dataclass(frozen=True)
class FolderFiles:
    """The files of a folder."""

    root: Path

    def paths(self) -> list[str]:
        """Returns the paths of all files that are not hidden, sorted."""
        try:
            found = [Path(top) / name for top, _, names in os.walk(self.root, onerror=_raise) for name in names]
        except OSError as error:
            raise UserError(f"cannot read folder {error.filename}: {error.strerror}; check its permissions") from error
        return _visible(file.relative_to(self.root).as_posix() for file in found)

    def read(self, path: str) -> bytes:
        """Returns a file's bytes."""
        file = self.root / path
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            return file.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read: {error.strerror}") from error

    def stamp(self, path: str) -> tuple[int, int]:
        """Returns a file's size and CRC-32, (0, 0) where it is missing."""
        try:
            data = (self.root / path).read_bytes()
        except OSError:
            return 0, 0
        return len(data), zlib.crc32(data)


@dataclasses.dataclass(frozen=True)
class ZipFiles:
    """The files of a zip; a folder that holds all of them is left out of their paths."""

    archive: Path
    # A file handle must not be shared between processes, so each process opens its own.
    _opened: dict[int, tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    def __getstate__(self) -> dict[str, Any]:
        return {"archive": self.archive}

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, "archive", state["archive"])
        object.__setattr__(self, "_opened", {})

    def paths(self) -> list[str]:
        """Returns the paths of all files that are not hidden, sorted."""
        return sorted(self._members()[1])

    def read(self, path: str) -> bytes:
        """Returns a file's bytes."""
        archive, members = self._members()
        if path not in members:
            raise ValueError("no such file in the zip")
        if members[path].file_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        try:
            return archive.read(members[path])
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, OSError, EOFError) as error:
            raise ValueError(f"cannot read from the zip: {error}") from error

    def stamp(self, path: str) -> tuple[int, int]:
        """Returns a file's size and CRC-32 as the zip's own table tells them, (0, 0) where it is missing."""
        member = self._members()[1].get(path)
        return (member.file_size, member.CRC) if member else (0, 0)

    def _members(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        if os.getpid() not in self._opened:
            try:
                archive = zipfile.ZipFile(self.archive)
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"cannot read {self.archive}: {error}; give a whole .zip file") from error
            infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            names = _visible(infos)
            tops = {name.split("/", 1)[0] for name in names if "/" in name}
            skip = len(tops.copy().pop()) + 1 if len(tops) == 1 and all("/" in name for name in names) else 0
            self._opened[os.getpid()] = archive, {name[skip:]: infos[name] for name in names}
        return self._opened[os.getpid()]


@dataclasses.dataclass(frozen=True)
class _Entry:
    path: str
    caption: str
    attributes: dict[str, str]


@dataclasses.dataclass(frozen=True)
class FileSource:
    """Pictures that are files, sorted by their paths."""

    name: str
    captions: str
    files: Files
    entries: tuple[_Entry, ...]

    @property
    def fingerprint(self) -> str:
        """A hash over all pictures' bytes, captions and attributes; reads a folder's files once."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return sha256_json([[e.path, *self.files.stamp(e.path), e.caption, e.attributes] for e in self.entries])

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of all pictures: each is a file of its own."""
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

    def told(self, index: int) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of an example."""
        entry = self.entries[index]
        return {**entry.attributes, "path": entry.path, "caption": entry.caption}


def _open_files(name: str, files: Files, split: str | None) -> FileSource:
    paths = files.paths()
    pictures = {path for path in paths if path.lower().endswith(SUFFIXES)}
    metadata = _metadata(files, paths)
    sidecars = {path[: -len(".txt")]: path for path in paths if path.lower().endswith(".txt")}
    chosen = sorted(pictures | metadata.keys())
    if split is not None:
        splits = sorted({path.split("/", 1)[0] for path in chosen if "/" in path} & set(SPLITS))
        chosen = [path for path in chosen if path.startswith(f"{split}/")]
        if not chosen:
            raise unknown("split", split, splits, hint="a folder's splits are its sub-folders train, validation, test")
    if not chosen:
        raise UserError(f"no pictures in {name}; give a folder or .zip that holds some of {' '.join(SUFFIXES)}")
    entries, used = [], Counter[str]()
    for path in chosen:
        entry, origin = _entry(path, files, metadata, sidecars)
        entries.append(dataclasses.replace(entry, attributes={**_collection(path), **entry.attributes}))
        used[origin] += 1
    origins = ", ".join(f"{origin} ({count})" for origin, count in used.most_common())
    return FileSource(name=name, captions=origins, files=files, entries=tuple(entries))


def _entry(
    path: str, files: Files, metadata: Mapping[str, tuple[_Entry, str]], sidecars: Mapping[str, str]
) -> tuple[_Entry, str]:
    """Returns a picture's entry, and where its caption comes from."""
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


def _metadata(files: Files, paths: list[str]) -> dict[str, tuple[_Entry, str]]:
    """Returns the entries of all metadata files with the file's kind; jsonl goes before csv."""
    entries: dict[str, tuple[_Entry, str]] = {}
    for kind, parse in (("metadata.csv", _csv_rows), ("metadata.jsonl", _jsonl_rows)):
        for file in paths:
            if posixpath.basename(file) == kind:
                for row in parse(file, _text(files, file)):
                    entry = _metadata_entry(file, row)
                    entries[entry.path] = entry, kind
    return entries


def _metadata_entry(file: str, row: Mapping[str, Any]) -> _Entry:
    if not row.get("file_name"):
        raise UserError(f"{file}: a row without file_name ({dict(row)}); every row must name its picture")
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
            raise UserError(f"{file}, line {number}: not JSON ({error.msg}); write one object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: {line[:60]!r} is not a JSON object; write one object a line")
        yield row


def _csv_rows(file: str, text: str) -> Iterable[Mapping[str, Any]]:
    for row in csv.DictReader(io.StringIO(text)):
        if None in row:
            raise UserError(f"{file}: a row has more values than the header ({row}); quote values that hold commas")
        yield row


def _text(files: Files, path: str) -> str:
    try:
        return files.read(path).decode("utf-8-sig")
    except ValueError as error:
        raise UserError(f"{path}: not readable as UTF-8 text ({error})") from error


def _visible(paths: Iterable[str]) -> list[str]:
    """Returns the paths without hidden parts, absolute ones, `..` and what macOS adds to a zip, sorted."""
    return sorted(
        path
        for path in paths
        if not path.startswith("/") and not any(part.startswith((".", "__MACOSX")) for part in path.split("/"))
    )


def _raise(error: OSError) -> None:
    raise error
