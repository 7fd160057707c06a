"""A source's pictures at one size, decoded once into a memory-mapped array, with their captions and labels."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.lib.format import open_memmap

from rdm_jax.core import files, images
from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import Source

_LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """All pictures of a source at one size.

    Attributes:
      images: [n, size, size, 3] uint8, memory-mapped.
      captions: n captions.
      attributes: n dictionaries of labels.
      rows: [n] the position of each picture in its source (unreadable pictures leave gaps).
      fingerprint: the source's hash.
    """

    images: UInt8[np.ndarray, "n size size 3"]
    captions: list[str]
    attributes: list[dict[str, str]]
    rows: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: np.ndarray) -> Pictures:
        """Returns the pictures at the given positions."""
        return Pictures(
            self.images[rows],
            [self.captions[i] for i in rows],
            [self.attributes[i] for i in rows],
            self.rows[rows],
            self.fingerprint,
        )


def load_pictures(source: Source, size: int, cache_dir: Path, progress: Progress | None = None) -> Pictures:
    """Returns the source's pictures, shorter side resized to `size` and the centre cropped, cached in `cache_dir`.

    The cache is named by the source's fingerprint and the size, and written whole or not at all; unreadable pictures
    are left out with a warning.

    Raises:
      UserError: no picture of the source can be read.
    """
    folder = cache_dir / f"{source.fingerprint[:16]}-{size}"
    if not folder.is_dir():
        _decode(source, size, folder, progress)
    labels = json.loads((folder / "labels.json").read_text())
    pictures = np.load(folder / "images.npy", mmap_mode="r")[: len(labels["captions"])]
    return Pictures(
        pictures, labels["captions"], labels["attributes"], np.asarray(labels["rows"], np.int64), source.fingerprint
    )


def _decode(source: Source, size: int, folder: Path, progress: Progress | None) -> None:
    with files.new_directory(folder, first_wins=True) as temporary:
        pictures = open_memmap(temporary / "images.npy", "w+", np.uint8, (len(source), size, size, 3))
        captions, attributes, rows = [], [], []
        for row in range(len(source)):
            try:
                example = source[row]
            except ValueError as error:
                _LOG.warning("picture %d of %s is left out: %s", row, source.name, error)
                continue
            pictures[len(rows)] = images.resize_and_crop(example.image, size)
            captions.append(example.caption)
            attributes.append(example.attributes)
            rows.append(row)
            if progress:
                progress(row + 1, len(source))
        if not rows:
            raise UserError(f"no picture of {source.name} can be read; check the files")
        pictures.flush()
        files.write_json(temporary / "labels.json", {"captions": captions, "attributes": attributes, "rows": rows})


def cached_array(folder: Path, rows: int, chunks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """Returns an array memory-mapped from `folder`, written there from `chunks()` first where it is not.

    Args:
      folder: a name that changes with what the array is made from.
      rows: the length of its first axis.
      chunks: makes the array's parts in order, along the first axis, all of one type.
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
