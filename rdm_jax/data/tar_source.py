"""WebDataset shards: samples in tar files, as img2dataset writes them (NAME.jpg, NAME.txt, NAME.json), read by row.

The library webdataset decides which members of a tar are one sample. It reads streams, and training reads rows in any
order: an index of where the members of each sample begin is made once, by the headers of the tar alone, and kept in the
cache folder under the SHA-256 of the tar.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from rdm_jax.core import files, images, storage, text
from rdm_jax.core.digests import kept_sha256
from rdm_jax.core.errors import UserError, bounded, first_line, unknown
from rdm_jax.core.left_out import LeftOut
from rdm_jax.data.examples import Example
from rdm_jax.data.fields import CAPTIONS, as_text
from rdm_jax.data.file_source import SPLITS
from rdm_jax.data.file_trees import MAX_BYTES

_LOG = logging.getLogger(__name__)

SUFFIX = ".tar"
SCHEMA = 1  # of an index
TEXT, JSON, CLASS = "txt", "json", "cls"
MEMBERS = ("image", TEXT, JSON, CLASS)  # of a sample, in the order of an index
META = re.compile(r"__[^/]*__($|/)")  # members that webdataset passes over


@dataclasses.dataclass(frozen=True)
class Shard:
    """The index of a tar file.

    Attributes:
      file: the tar.
      name: its path below the set's folder without the suffix.
      sha256: of its bytes.
      paths: of the samples, with the suffix of their images.
      members: [n, 4, 2] where the bytes of each of `MEMBERS` begin and how many they are; -1 where there is none.
    """

    file: Path
    name: str
    sha256: str
    paths: Sequence[str]
    members: Int64[np.ndarray, "n 4 2"]

    def read(self, row: int, member: str) -> bytes | None:
        """Returns the bytes of a member of a sample, None if it has none; raises ValueError if they cannot be read."""
        start, size = self.members[row, MEMBERS.index(member)].tolist()
        if start < 0:
            return None
        if size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        try:
            with open(self.file, "rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError as error:
            raise ValueError(f"cannot read: {error.strerror or error}") from error
        if len(data) < size:
            raise ValueError(f"{self.file.name} ends within it")
        return data


@dataclasses.dataclass(frozen=True)
class TarSource:
    """The samples of tar files that have an image, in the order of the files and within each.

    Attributes:
      name: of the set.
      shards: at least one.
    """

    name: str
    shards: Sequence[Shard]

    @property
    def captions(self) -> str:
        """How many samples have a text, and how many JSON."""
        members = np.concatenate([shard.members[:, :, 0] for shard in self.shards]) >= 0
        counts = {f".{kind}": int(members[:, MEMBERS.index(kind)].sum()) for kind in (TEXT, JSON)}
        return ", ".join(f"{kind} ({count})" for kind, count in counts.items() if count) or "none"

    @property
    def fingerprint(self) -> str:
        """A hash over the names and the bytes of all tar files."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return files.sha256_json([SCHEMA, *([shard.name, shard.sha256] for shard in self.shards)])

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of samples in each tar file."""
        return [len(shard.paths) for shard in self.shards]

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(self.shard_lengths))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        shard, row = self._place(index)
        path = f"{shard.name}/{shard.paths[row]}"
        try:
            caption, attributes = _labels(shard, row)
            image = images.decode(shard.read(row, "image") or b"")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return Example(image, caption, path, attributes)

    def labels(self, index: int) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of a sample; the path alone if they cannot be read."""
        shard, row = self._place(index)
        caption, attributes = "", {}
        with contextlib.suppress(ValueError):
            caption, attributes = _labels(shard, row)
        return {**attributes, "path": f"{shard.name}/{shard.paths[row]}", "caption": caption}

    def _place(self, index: int) -> tuple[Shard, int]:
        """Returns the shard of a row, and the row's number there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        return self.shards[number], index - (self._ends[number - 1] if number else 0)


def open_tars(path: Path, split: str | None) -> TarSource:
    """Opens a tar file, the tar files of a folder, or those of a pattern such as shard-{000..127}.tar.

    Samples without an image, and what is damaged, are left out and reported.

    Args:
      path: of the file, the folder, or the pattern.
      split: a sub-folder of the folder, "train" for example; all tar files if None.

    Raises:
      UserError: no tar file is there, none of them has an image, there is no such split, or the extra is missing.
    """
    tars = _shards(path)
    if not tars:
        raise UserError(f"no tar file is at {path}; check the path")
    root = path if path.is_dir() else Path(os.path.commonpath([file.parent for file in tars]))
    found = {file.relative_to(root).as_posix().removesuffix(SUFFIX): file for file in tars}
    if split is not None:
        splits = sorted({name.partition("/")[0] for name in found if "/" in name} & set(SPLITS))
        found = {name: file for name, file in found.items() if name.startswith(f"{split}/")}
        if not found:
            raise unknown("split", split, splits, hint="splits are sub-folders train, validation, test")
    left_out, shards = LeftOut(), []
    for name in sorted(found):
        shards.append(_open_shard(found[name], name, left_out))
    if len(left_out):
        _LOG.warning("%s: %s", root.name, str(left_out))
    shards = [shard for shard in shards if shard.paths]
    if not shards:
        raise UserError(f"no images in the tar files of {path}; give a WebDataset with NAME.jpg, NAME.txt, NAME.json")
    return TarSource(path.stem if path.is_file() else root.resolve().name, shards)


def is_pattern(path: Path) -> bool:
    """Returns whether a path that is no file stands for several tar files."""
    return path.suffix == SUFFIX and "{" in str(path)


def _library() -> Any:
    try:
        import webdataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("tar files are read by webdataset; pip install 'rdm_jax[webdataset]'") from error
    return webdataset


def _shards(path: Path) -> Sequence[Path]:
    if path.is_dir():
        return [file for file in path.rglob(f"*{SUFFIX}") if not file.name.startswith(".") and file.is_file()]
    if path.is_file():
        return [path]
    with bounded(f"{path} is no pattern of tar files", "write it as shard-{000..127}.tar"):
        listed = [Path(one) for one in _library().shardlists.expand_urls(str(path))]
    missing = [file for file in listed if not file.is_file()]
    if missing:
        raise UserError(f"no file {missing[0]}, one of {len(listed)} of {path}; check the pattern")
    return listed


def _open_shard(file: Path, name: str, left_out: LeftOut) -> Shard:
    """Returns the index of a tar file, made now unless one of its bytes is kept; counts what is left out of it."""
    digest = kept_sha256(file)
    kept = storage.cache_folder() / "tars" / f"{digest}-{SCHEMA}.json"
    try:
        index = text.read_json(kept)
    except (OSError, ValueError):
        index = _index(file)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
            kept.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(kept, index)
    for path, reason in index["left_out"]:
        left_out.add(f"{name}/{path}", reason)
    members = np.array(index["members"], np.int64).reshape(-1, len(MEMBERS), 2)
    return Shard(file, name, digest, index["paths"], members)


def _index(file: Path) -> dict[str, Any]:
    """Returns the paths and the members of the samples of a tar file, and what is left out of it with the reasons."""
    left_out: list[tuple[str, str]] = []

    def handle(error: Exception) -> bool:
        """Passes over a member that does not fit its sample."""
        left_out.append((str(error.args[0]).partition(":")[0], "a name that the tar has twice"))
        return True

    paths, members = [], []
    for sample in _library().tariterators.group_by_keys(_members(file, left_out), handler=handle):
        suffix = _image_suffix(sample)
        if suffix is None:
            left_out.append((sample["__key__"], "without an image"))
            continue
        paths.append(f"{sample['__key__']}.{suffix}")
        members.append([sample.get(kind, (-1, 0)) for kind in (suffix, TEXT, JSON, CLASS)])
    return {"paths": paths, "members": members, "left_out": left_out}


def _members(file: Path, left_out: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Yields the members of a tar file as webdataset's reader does, with their places as their data.

    A tar that breaks off ends with its last complete member, and is among what is left out.
    """
    try:
        end = file.stat().st_size
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                complete = member.offset_data + member.size <= end
                if complete and member.isreg() and not member.issparse() and not META.match(member.name):
                    yield {"fname": member.name, "data": (member.offset_data, member.size), "__url__": str(file)}
    except (tarfile.TarError, OSError, EOFError) as error:
        left_out.append((f"the rest of {file.name}", f"a damaged or compressed tar ({first_line(error)})"))


def _image_suffix(sample: Mapping[str, Any]) -> str | None:
    """Returns the key of a sample's image: its first one with a suffix of images, such as "jpg", or else "a.jpg"."""
    keys = [key for key in sample if not key.startswith("__")]
    plain = (key for key in keys if f".{key}" in images.suffixes())
    longer = (key for key in keys if f".{key.rpartition('.')[2]}" in images.suffixes())
    return next(itertools.chain(plain, longer), None)


def _labels(shard: Shard, row: int) -> tuple[str, dict[str, str]]:
    """Returns the caption and the attributes of a sample; raises ValueError if they are damaged."""
    record = json.loads(text.decode(shard.read(row, JSON) or b"{}"))
    if not isinstance(record, dict):
        raise ValueError("its JSON is no object")
    written = shard.read(row, TEXT)
    key = next((key for key in CAPTIONS if isinstance(record.get(key), str)), None)
    caption = text.decode(written).strip() if written is not None else record.get(key, "")
    attributes = {str(name): as_text(value) for name, value in record.items() if name != key and value is not None}
    class_ = shard.read(row, CLASS)
    return caption, attributes if class_ is None else {**attributes, CLASS: text.decode(class_).strip()}
