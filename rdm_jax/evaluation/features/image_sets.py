"""Sets of images to measure: folders and zips of any program, runs of `rdm sample`, arrays, TFDS sets, databases."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rdm_jax.core import hub, paths, text
from rdm_jax.core.errors import UserError, first_line
from rdm_jax.core.files import sha256_json
from rdm_jax.core.images import decode
from rdm_jax.data.array_source import open_array
from rdm_jax.data.examples import Example, ImageSource
from rdm_jax.data.file_trees import FolderFiles
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.manifest import MANIFEST

_QUERY = re.compile(r"image [0-9a-f]{10}|(?:row|query) \d+")  # labels of queries that are no texts
RUN = "run.json"  # of `rdm sample` and of `rdm evaluate model`, beside sheets that are no samples


@dataclasses.dataclass(frozen=True)
class RunSource:
    """The images of a run of `rdm sample`, with their prompts as captions; its sheets are not among them.

    Attributes:
      name: of the folder.
      files: the folder.
      entries: (path, prompt) of each image.
    """

    name: str
    files: FolderFiles
    entries: tuple[tuple[str, str], ...]

    @property
    def captions(self) -> str:
        """Where the captions come from."""
        return f"prompts of {RUN}"

    @property
    def fingerprint(self) -> str:
        """A hash over the bytes of all images and their prompts."""
        return sha256_json([[path, *self.files.stamp(path), prompt] for path, prompt in self.entries])

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of images: each one is a file."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Example:
        path, prompt = self.entries[index]
        try:
            return Example(decode(self.files.read(path)), prompt, path, {})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def labels(self, index: int) -> Mapping[str, str]:
        """Returns the path and the prompt of an image."""
        path, prompt = self.entries[index]
        return {"path": path, "caption": prompt}


@dataclasses.dataclass(frozen=True)
class DatabaseSource:
    """The thumbnails of a database."""

    database: Database

    @property
    def name(self) -> str:
        """The database's name."""
        return self.database.name

    @property
    def captions(self) -> str:
        """Where the captions come from."""
        return "the database"

    @property
    def fingerprint(self) -> str:
        """The hash of the database."""
        return self.database.digest

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of rows."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.database)

    def __getitem__(self, index: int) -> Example:
        labels = self.labels(index)
        return Example(self.database.thumbnails([index])[0], labels["caption"], labels["path"], {})

    def labels(self, index: int) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of a row."""
        item = self.database.items([index])[0]
        return {**item["attributes"], "path": item["path"], "caption": item["caption"] or ""}


def open_images(place: str | Path) -> ImageSource:
    """Opens a set of images.

    Args:
      place: a folder, a .zip, a .npz with `arr_0`, the folder of a run of `rdm sample`, the name, folder or
        hf:// address of a database, or a TFDS set by its name.

    Raises:
      UserError: there is nothing of this name, it holds no images, or the database has no thumbnails.
    """
    if str(place) in Database.names() or hub.is_address(place):
        return _database(place)
    if not paths.is_remote(place):
        path = paths.local(place)
        if path.suffix.lower() == ".npz" and path.is_file():
            return open_array(path)
        if (path / MANIFEST).is_file():
            return _database(path)
        if (path / RUN).is_file():
            return _run(path)
    return open_source(str(place))


def _database(place: str | Path) -> DatabaseSource:
    database = Database.open(place)
    if not database.has_thumbnails:
        raise UserError(f"database {database.name!r} has no thumbnails to compare with; give the folder of its images")
    return DatabaseSource(database)


def _caption(label: str) -> str:
    """Returns the prompt of an image, "" where its query was an image or a row of the database."""
    return "" if _QUERY.fullmatch(label) else label


def _run(folder: Path) -> RunSource:
    try:
        record = text.read_json(folder / RUN)
        entries = tuple((str(entry["file"]), _caption(str(entry.get("prompt", "")))) for entry in record["images"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"cannot read {folder / RUN} ({first_line(error)}); remove it to measure all images of the folder"
        ) from error
    if not entries:
        raise UserError(f"the run in {folder} has no images yet; continue it, or give another folder")
    return RunSource(folder.resolve().name, FolderFiles(folder), entries)
