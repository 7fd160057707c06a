"""Image data sets of Hugging Face's library `datasets`: parquet and Arrow files, and folders of `save_to_disk`.

The library maps Arrow files as they are, and converts parquet files once, into the cache folder. Nothing is downloaded:
an image that the set names by an address or a path, without its bytes, cannot be read.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.core import files, images, storage
from rdm_jax.core.digests import kept_sha256
from rdm_jax.core.errors import UserError, bounded, first_line, unknown
from rdm_jax.data.examples import Example
from rdm_jax.data.fields import CAPTIONS, PATHS, as_text, class_name

KINDS = {".parquet": "parquet", ".arrow": "arrow"}
"""By the suffix of a file: the library's name of its format."""
BINARY = ("binary", "large_binary")


@dataclasses.dataclass(frozen=True)
class DatasetSource:
    """A split of an image data set.

    Attributes:
      name: of the set.
      rows: the library's data set, its images not decoded.
      image: the column of the example's image.
      caption: the column of the caption, None if there is none.
      path: the column of the path, None if there is none.
      classes: the columns of class labels; these and the other columns of single values are attributes.
      columns: the attributes.
      files: (path below the set's folder, SHA-256) of all files that the set was read from.
      split: the name of the split.
    """

    name: str
    rows: Any
    image: str
    caption: str | None
    path: str | None
    classes: Mapping[str, Any]
    columns: Sequence[str]
    files: Sequence[tuple[str, str]]
    split: str

    @property
    def captions(self) -> str:
        """The column of the captions."""
        return f"column {self.caption!r}" if self.caption else "none"

    @property
    def fingerprint(self) -> str:
        """A hash over the names and the bytes of all files, and the split."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return files.sha256_json([list(map(list, self.files)), self.split])

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of rows: the library makes one table of all files."""
        return (len(self),)

    @functools.cached_property
    def _texts(self) -> Any:
        """The rows without their images: of a column that is not read, nothing is read."""
        return self.rows.select_columns([*filter(None, (self.caption, self.path)), *self.columns])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        labels = dict(self.labels(index))
        path, caption = labels.pop("path"), labels.pop("caption")
        try:
            image = images.decode(_image_bytes(self._row(self.rows, index)[self.image]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return Example(image, caption, path, labels)

    def labels(self, index: int) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of an example; without attributes if it cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, number = {}, f"{index:08d}"
        if self._texts.column_names:
            try:
                row = self._row(self._texts, index)
            except ValueError:
                return {"path": number, "caption": ""}
        attributes = {name: self._value(row, name) for name in self.columns if row[name] is not None}
        path = self._value(row, self.path) if self.path else number
        return {**attributes, "path": path, "caption": self._value(row, self.caption) if self.caption else ""}

    @staticmethod
    def _row(rows: Any, index: int) -> Mapping[str, Any]:
        try:
            return rows[index]
        except MemoryError:
            raise
        except Exception as error:  # a damaged file raises anything; it concerns these rows only
            raise ValueError(f"damaged row: {first_line(error)}") from error

    def _value(self, row: Mapping[str, Any], name: str) -> str:
        """Returns the text of a column; of several texts, the first one."""
        value = row[name]
        if isinstance(value, list):
            value = value[0] if value else None
        if value is None:
            return ""
        return class_name(self.classes[name], value) if name in self.classes else as_text(value)


def is_saved(path: Path) -> bool:
    """Returns whether a folder is one of the library's `save_to_disk`, of one split or of several."""
    names = {"state.json", "dataset_info.json"}, {"dataset_dict.json"}
    return any(all((path / name).is_file() for name in group) for group in names)


def open_tables(path: Path, split: str | None = None) -> DatasetSource:
    """Opens a parquet or an Arrow file, or a folder of them with the library's rules for splits.

    Raises:
      UserError: the library cannot read it, it has no such split or no images, or the extra is missing.
    """
    library, cache = _library(), str(storage.cache_folder() / "datasets")
    found = [path] if path.is_file() else sorted(file for kind in KINDS for file in path.rglob(f"*{kind}"))
    with bounded(f"datasets cannot read {path}", "check the files"):
        if path.is_file():
            loaded = library.load_dataset(KINDS[path.suffix.lower()], data_files=[str(path)], cache_dir=cache)
        else:
            loaded = library.load_dataset(str(path), cache_dir=cache)
    return _opened(path, loaded, found, split)


def open_saved(path: Path, split: str | None = None) -> DatasetSource:
    """Opens a folder of the library's `save_to_disk`.

    Raises:
      UserError: as `open_tables` does.
    """
    library = _library()
    with bounded(f"datasets cannot read {path}", "check the files"):
        loaded = library.load_from_disk(str(path))
    if not isinstance(loaded, dict):
        loaded = {str(loaded.split or "train"): loaded}
    return _opened(path, loaded, sorted(path.rglob("*.arrow")), split)


def _library() -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("parquet and Arrow files are read by datasets; pip install 'rdm_jax[datasets]'") from error
    return datasets


def _opened(path: Path, loaded: Mapping[str, Any], found: Sequence[Path], split: str | None) -> DatasetSource:
    """Returns the source of a split.

    Args:
      path: of the set.
      loaded: its splits, the library's data sets.
      found: the files of all splits.
      split: one of them; if None "train", or the first one.
    """
    library, root = _library(), path if path.is_dir() else path.parent
    split = split or ("train" if "train" in loaded else next(iter(loaded)))
    if split not in loaded:
        raise unknown("split", split, loaded, hint=f"of the data set {path}")
    rows = loaded[split]
    features = rows.features.items()
    image = next((name for name, one in features if isinstance(one, library.Image)), None)
    image = image or next((name for name, one in features if _has_bytes(one)), None)
    if image is None:
        raise UserError(f"data set {path} has no column of images (only {', '.join(rows.features)}); choose another")
    if not len(rows):
        raise UserError(f"split {split} of data set {path} has no rows; choose another")
    if isinstance(rows.features[image], library.Image):
        rows = rows.cast_column(image, library.Image(decode=False))
    classes = {name: one for name, one in features if isinstance(one, library.ClassLabel)}
    caption = next((name for name in (*CAPTIONS, *classes) if name in rows.features), None)
    place = next((name for name in PATHS if name in rows.features), None)
    single = (library.Value, library.ClassLabel)
    columns = [
        name
        for name, one in features
        if isinstance(one, single) and one.dtype not in BINARY and name not in (caption, place)
    ]
    return DatasetSource(
        name=path.stem if path.is_file() else path.resolve().name,
        rows=rows,
        image=image,
        caption=caption,
        path=place,
        classes=classes,
        columns=columns,
        files=[(file.relative_to(root).as_posix(), kept_sha256(file)) for file in found],
        split=split,
    )


def _has_bytes(feature: Any) -> bool:
    """Returns whether a column without the type of images can hold some: bytes, or a structure with bytes."""
    return "bytes" in feature if isinstance(feature, dict) else getattr(feature, "dtype", "") in BINARY


def _image_bytes(value: Any) -> bytes:
    """Returns the bytes of an image file; raises ValueError where a row has none."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not data:
        named = f", only the name {value['path']}" if isinstance(value, dict) and value.get("path") else ""
        raise ValueError(f"the row has no bytes of an image{named}")
    return data
