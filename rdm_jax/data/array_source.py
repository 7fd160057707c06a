"""Images in one array of a NumPy archive, `arr_0` uint8 [n, h, w, 3]: the format of ADM's sample batches."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core import files
from rdm_jax.core.errors import UserError, first_line
from rdm_jax.data.examples import Example

MEMBER = "arr_0.npy"
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Images of an array, without captions; one that is stored uncompressed is mapped and not read into memory.

    Attributes:
      name: of the file.
      images: [n, h, w, 3].
    """

    name: str
    images: UInt8[np.ndarray, "n h w 3"]

    @property
    def captions(self) -> str:
        """There are none."""
        return "none"

    @property
    def fingerprint(self) -> str:
        """A hash over all pixels; reads the array once."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        found = hashlib.sha256(str(self.images.shape).encode())
        for image in self.images:
            found.update(image.tobytes())
        return found.hexdigest()

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of images."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return Example(np.array(self.images[index]), "", self.labels(index)["path"], {})

    def labels(self, index: int) -> Mapping[str, str]:
        """Returns a path and an empty caption."""
        return {"path": f"{index:06d}.png", "caption": ""}


def open_array(file: Path) -> ArraySource:
    """Opens the images of a .npz file.

    Raises:
      UserError: it cannot be read, or its `arr_0` is no uint8 array [n, h, w, 3].
    """
    try:
        images = _mapped(file)
        if images is None:
            with np.load(file, allow_pickle=False) as stored:
                images = stored[MEMBER.removesuffix(".npy")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, struct.error) as error:
        raise UserError(f"cannot read images of {file}: {first_line(error)}; give a .npz file with arr_0") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise UserError(
            f"arr_0 of {file} is {images.dtype} of shape {list(images.shape)}; it must be uint8 [n, height, width, 3]"
        )
    return ArraySource(file.stem, images)


def _mapped(file: Path) -> np.ndarray | None:
    """Returns the array of an uncompressed member, mapped; None if it is compressed."""
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo(MEMBER)
        if member.compress_type != zipfile.ZIP_STORED:
            return None
    with open(file, "rb") as stream:
        stream.seek(member.header_offset)
        name, extra = struct.unpack("<26xHH", stream.read(_LOCAL_HEADER))
        stream.seek(name + extra, 1)
        shape, fortran, dtype = _header(stream)
        if dtype.hasobject:
            raise ValueError("arr_0 holds Python objects")
        order = "F" if fortran else "C"
        return np.memmap(file, dtype=dtype, mode="r", offset=stream.tell(), shape=shape, order=order)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def write_array(file: Path, images: Iterator[UInt8[np.ndarray, "h w 3"]], shape: tuple[int, int, int, int]) -> None:
    """Writes images one by one to a .npz file that ADM's evaluator and `open_array` read, whole or not at all.

    Args:
      file: to write.
      images: all of one size.
      shape: (images, height, width, 3).

    Raises:
      UserError: the images have several sizes, or the file cannot be written.
    """
    with (
        files.writing(file),
        files.replaced(file) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
        archive.open(MEMBER, "w", force_zip64=True) as stream,
    ):
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for image in images:
            if image.shape != shape[1:]:
                (h, w), (height, width) = image.shape[:2], shape[1:3]
                raise UserError(f"images of {w}x{h} and {width}x{height} pixels do not fit in one array; resize them")
            stream.write(image.tobytes())
