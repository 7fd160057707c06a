"""The images of a source at one size, decoded once into a memory-mapped array, with captions and labels."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.lib.format import open_memmap

from rdm_jax.core import files, text
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import resize_and_crop
from rdm_jax.core.left_out import LeftOut
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.data.examples import ImageSource, SelectedExamples

_LOG = logging.getLogger(__name__)

MAX_BROKEN = 16  # broken images in a row


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """All images of a source at one size.

    Attributes:
      images: [n, size, size, 3] uint8, memory-mapped, or decoded on access.
      captions: n captions.
      attributes: n dictionaries of labels.
      rows: [n] the position of each image in its source (unreadable images leave gaps).
      fingerprint: the hash of the source, and of the positions where these are a part of its images.
    """

    images: UInt8[np.ndarray, "n size size 3"] | LazyImages
    captions: list[str]
    attributes: list[dict[str, str]]
    rows: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: np.ndarray) -> ImageSet:
        """Returns the images at the given positions."""
        return ImageSet(
            self.images.take(rows) if isinstance(self.images, LazyImages) else self.images[rows],
            [self.captions[i] for i in rows],
            [self.attributes[i] for i in rows],
            self.rows[rows],
            files.sha256_json([self.fingerprint, np.asarray(rows).tolist()]),
        )


def load_images(source: ImageSource, size: int, cache_dir: Path, progress: ProgressCallback | None = None) -> ImageSet:
    """Returns the source's images, shorter side resized to `size` and the center cropped, cached in `cache_dir`.

    The cache is named by the source's fingerprint and the size, and written atomically; unreadable images are left out
    and reported.

    Raises:
      UserError: no image of the source can be read.
    """
    folder = cache_dir / f"{source.fingerprint[:16]}-{size}"
    if not folder.is_dir():
        _decode(source, size, folder, progress)
    labels = text.read_json(folder / "labels.json")
    images = np.load(folder / "images.npy", mmap_mode="r")[: len(labels["captions"])]
    return ImageSet(
        images, labels["captions"], labels["attributes"], np.asarray(labels["rows"], np.int64), source.fingerprint
    )


class LazyImages:
    """The images of a source at one size, as an array [n, size, size, 3] that decodes on access.

    An image that cannot be read is replaced by the next one, and reported once.
    """

    def __init__(self, source: ImageSource, size: int) -> None:
        self._source, self.shape = source, (len(source), size, size, 3)
        self._left_out, self._reported = LeftOut("image"), set[int]()

    def take(self, rows: np.ndarray) -> LazyImages:
        """Returns the images at the given positions, none of them decoded yet."""
        return LazyImages(SelectedExamples(self._source, rows.tolist()), self.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> UInt8[np.ndarray, "..."]:
        """Returns one image by its index, or several by a slice or an array of indices; a tuple also crops."""
        rows, *crop = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        if np.ndim(rows) == 0:
            return self._image(int(rows))[tuple(crop)]
        return np.stack([self._image(int(row)) for row in rows])[(slice(None), *crop)]

    def _image(self, row: int) -> np.ndarray:
        for step in range(MAX_BROKEN):
            place = (row + step) % len(self)
            try:
                return resize_and_crop(self._source[place].image, self.shape[1])
            except ValueError as error:
                self._report(place, str(error))
        raise UserError(f"{MAX_BROKEN} images of {self._source.name} from index {row} on are broken; check the files")

    def _report(self, row: int, line: str) -> None:
        """Reports the broken images so far, at their first, second, fourth and so on."""
        if row in self._reported:
            return
        self._reported.add(row)
        if self._left_out.add_line(line):
            _LOG.warning("%s: %s; the next one replaces each", self._source.name, str(self._left_out))


def stream_images(source: ImageSource, size: int) -> ImageSet:
    """Returns the source's images as `load_images` does, each decoded on access, without a cache.

    It serves sets whose decoded images would not fit a disk. The next image replaces an unreadable one.
    """
    labels = [source.labels(row) for row in range(len(source))]
    attributes = [{k: v for k, v in one.items() if k not in ("caption", "path")} for one in labels]
    lazy: Any = LazyImages(source, size)
    rows = np.arange(len(source))
    return ImageSet(lazy, [one.get("caption") or "" for one in labels], attributes, rows, source.fingerprint)


def _decode(source: ImageSource, size: int, folder: Path, progress: ProgressCallback | None) -> None:
    with files.new_directory(folder, first_wins=True) as temporary:
        array = open_memmap(temporary / "images.npy", "w+", np.uint8, (len(source), size, size, 3))
        captions, attributes, rows, left_out = [], [], [], LeftOut("image")
        for row in range(len(source)):
            try:
                example = source[row]
            except ValueError as error:
                left_out.add_line(str(error))
                continue
            array[len(rows)] = resize_and_crop(example.image, size)
            captions.append(example.caption)
            attributes.append(example.attributes)
            rows.append(row)
            if progress:
                progress(row + 1, len(source))
        if not rows:
            raise UserError(f"no image of {source.name} can be read; check the files; {left_out}")
        if len(left_out):
            _LOG.warning("%s: %s", source.name, str(left_out))
        array.flush()
        files.write_json(temporary / "labels.json", {"captions": captions, "attributes": attributes, "rows": rows})


def cached_array(folder: Path, rows: int, chunks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """Returns an array memory-mapped from `folder`, written there from `chunks()` first if it is missing.

    Args:
      folder: named by what the array is made from.
      rows: the length of its first axis.
      chunks: yields the parts in order, along the first axis, all of one type.
    """
    if not folder.is_dir():
        with files.new_directory(folder, first_wins=True) as temporary:
            array, start = None, 0
            for chunk in chunks():
                if array is None:
                    array = open_memmap(temporary / "array.npy", "w+", chunk.dtype, (rows, *chunk.shape[1:]))
                array[start : start + len(chunk)] = chunk
                start += len(chunk)
            assert array is not None and start == rows, f"{start} of {rows} rows were made"
            array.flush()
    return np.load(folder / "array.npy", mmap_mode="r")
