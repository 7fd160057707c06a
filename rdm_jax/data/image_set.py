"""A source's images at one size, decoded once into a memory-mapped array, with their captions and labels."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.lib.format import open_memmap

from rdm_jax.core import files, images
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.data.examples import ImageSource, SelectedExamples

_LOG = logging.getLogger(__name__)

# The number of consecutive broken images that are replaced by the next readable one.
MAX_BROKEN_RUN = 16


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """The images of a source at one size.

    Attributes:
      images: [n, size, size, 3] uint8, memory-mapped or decoded on access.
      captions: n captions.
      attributes: n dictionaries of labels.
      rows: [n] the number of each image in its source; unreadable images leave gaps.
      fingerprint: the fingerprint of the source; for a part of it, a hash over that and the rows.
    """

    images: UInt8[np.ndarray, "n size size 3"] | LazyImages
    captions: list[str]
    attributes: list[dict[str, str]]
    rows: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: np.ndarray) -> ImageSet:
        """Returns the images at these positions."""
        return ImageSet(
            self.images.take(rows) if isinstance(self.images, LazyImages) else self.images[rows],
            [self.captions[i] for i in rows],
            [self.attributes[i] for i in rows],
            self.rows[rows],
            files.sha256_json([self.fingerprint, np.asarray(rows).tolist()]),
        )


def load_images(source: ImageSource, size: int, cache_dir: Path, progress: ProgressCallback | None = None) -> ImageSet:
    """Returns the source's images, shorter side resized to `size` and center cropped, cached in `cache_dir`.

    The name of the cache contains the source's fingerprint and the size. It is written completely or not at all.
    Unreadable images are omitted with a warning.

    Raises:
      UserError: no image of the source can be read.
    """
    folder = cache_dir / f"{source.fingerprint[:16]}-{size}"
    if not folder.is_dir():
        _decode(source, size, folder, progress)
    labels = json.loads((folder / "labels.json").read_text())
    array = np.load(folder / "images.npy", mmap_mode="r")[: len(labels["captions"])]
    rows = np.asarray(labels["rows"], np.int64)
    return ImageSet(array, labels["captions"], labels["attributes"], rows, source.fingerprint)


class LazyImages:
    """The images of a source at one size as an array [n, size, size, 3] that decodes images on access."""

    def __init__(self, source: ImageSource, size: int) -> None:
        self._source, self.shape = source, (len(source), size, size, 3)

    def take(self, rows: np.ndarray) -> LazyImages:
        """Returns the images at these positions, without decoding them."""
        return LazyImages(SelectedExamples(self._source, rows.tolist()), self.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> UInt8[np.ndarray, "..."]:
        """Returns one image by number, or several by a slice or an array of numbers; a tuple also crops."""
        rows, *crop = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        if np.ndim(rows) == 0:
            return self._image(int(rows))[tuple(crop)]
        return np.stack([self._image(int(row)) for row in rows])[(slice(None), *crop)]

    def _image(self, row: int) -> np.ndarray:
        for step in range(MAX_BROKEN_RUN):
            try:
                return images.resize_and_crop(self._source[(row + step) % len(self)].image, self.shape[1])
            except ValueError as error:
                _LOG.warning("image %d of %s is broken; the next one replaces it: %s", row, self._source.name, error)
        raise UserError(f"{MAX_BROKEN_RUN} images of {self._source.name} from number {row} on are broken")


def stream_images(source: ImageSource, size: int) -> ImageSet:
    """Returns the source's images as `load_images` does, but decoded on access and without a cache.

    For sets whose decoded images would not fit on a disk. The next image replaces an unreadable one.
    """
    labels = [source.labels(row) for row in range(len(source))]
    attributes = [{k: v for k, v in row.items() if k not in ("caption", "path")} for row in labels]
    lazy: Any = LazyImages(source, size)
    rows = np.arange(len(source))
    return ImageSet(lazy, [row.get("caption") or "" for row in labels], attributes, rows, source.fingerprint)


def _decode(source: ImageSource, size: int, folder: Path, progress: ProgressCallback | None) -> None:
    with files.new_directory(folder, first_wins=True) as temporary:
        array = open_memmap(temporary / "images.npy", "w+", np.uint8, (len(source), size, size, 3))
        captions, attributes, rows = [], [], []
        for row in range(len(source)):
            try:
                example = source[row]
            except ValueError as error:
                _LOG.warning("image %d of %s is omitted: %s", row, source.name, error)
                continue
            array[len(rows)] = images.resize_and_crop(example.image, size)
            captions.append(example.caption)
            attributes.append(example.attributes)
            rows.append(row)
            if progress:
                progress(row + 1, len(source))
        if not rows:
            raise UserError(f"no image of {source.name} can be read; check the files")
        array.flush()
        files.write_json(temporary / "labels.json", {"captions": captions, "attributes": attributes, "rows": rows})


def cached_array(folder: Path, rows: int, chunks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """Returns the memory-mapped array in `folder`, which is first written from `chunks()` if it does not exist.

    Args:
      folder: a name that changes with the inputs of the array.
      rows: the length of its first axis.
      chunks: yields the parts of the array in order, along the first axis, all of one type.
    """
    if not folder.is_dir():
        with files.new_directory(folder, first_wins=True) as temporary:
            array, start = None, 0
            for chunk in chunks():
                if array is None:
                    array = open_memmap(temporary / "array.npy", "w+", chunk.dtype, (rows, *chunk.shape[1:]))
                array[start : start + len(chunk)] = chunk
                start += len(chunk)
            assert array is not None and start == rows, f"{start} of {rows} rows were written"
            array.flush()
    return np.load(folder / "array.npy", mmap_mode="r")
