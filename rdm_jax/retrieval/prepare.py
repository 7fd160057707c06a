"""Prepares examples for an encoder: decoded, cut into patches, resized, described, by several processes.

This module does not import JAX, so that worker processes start quickly. The local build and the workers of a cluster
use it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.data.selection import EVERYTHING, Selection
from rdm_jax.retrieval.shards import encode_thumbnail, image_hash, item_id

CHUNK = 32
# For fewer images, processes need longer to start than they save.
PROCESSES_FROM = 2048


@dataclasses.dataclass(frozen=True)
class Patches:
    """Square patches at random places, as in the released database of OpenImages.

    Attributes:
      number: the number of patches per image.
      size: the side of a patch in pixels.
      shorter_side: the length that an image's shorter side is resized to first, in pixels.
      seed: of the places; the place of patch j of image i depends on nothing else.

    Raises:
      UserError: a number is out of range.
    """

    number: int
    size: int = 256
    shorter_side: int = 1200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.number < 1:
            raise UserError(f"patches {self.number} is out of range; give 1 or more per image")
        if not 8 <= self.size <= self.shorter_side:
            raise UserError(
                f"patch size {self.size} is out of range; give 8 to {self.shorter_side}, the shorter side of an image"
            )
        if self.seed < 0:
            raise UserError(f"patch seed {self.seed} is out of range; give 0 or more")

    def cut(self, image: UInt8[np.ndarray, "h w 3"], index: int) -> list[tuple[np.ndarray, list[int]]]:
        """Returns the patches of image `index`, each with its box (left, top, right, bottom) in the original image."""
        original = Image.fromarray(image)
        scale = self.shorter_side / min(original.size)
        width, height = (max(self.shorter_side, round(side * scale)) for side in original.size)
        generator = np.random.default_rng([self.seed, index])
        patches = []
        for _ in range(self.number):
            left = int(generator.integers(0, width - self.size + 1))
            top = int(generator.integers(0, height - self.size + 1))
            right, bottom = (left + self.size) / scale, (top + self.size) / scale
            box = left / scale, top / scale, min(right, original.width), min(bottom, original.height)
            # Only the patch's part of the image is resized: resizing the whole image to 1200 pixels costs far more.
            patch = original.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
            patches.append((np.asarray(patch), [round(edge) for edge in box]))
        return patches


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How an example becomes rows.

    Attributes:
      image_size: the side of the encoder's images in pixels.
      thumbnail_size: the side of the thumbnails in pixels; no thumbnails if None.
      quality: of the thumbnails as WebP, 1 to 100.
      patches: the patches to cut from an image; the whole image if None.
      selection: omits images by their sha256 and id, which are known only after decoding.
    """

    image_size: int
    thumbnail_size: int | None = None
    quality: int = 80
    patches: Patches | None = None
    selection: Selection = EVERYTHING

    def __call__(self, source: ImageSource, index: int) -> Prepared:
        """Returns the rows of an example, none if the selection omits it, or the reason why it cannot be read."""
        try:
            example = source[index]
        except ValueError as error:
            return Prepared(index, [], [], None, str(error))
        item = {
            "path": _utf8(example.path),
            "caption": _utf8(example.caption),
            "attributes": {_utf8(key): _utf8(value) for key, value in example.attributes.items()},
            "sha256": image_hash(example.image),
        }
        patches = [(example.image, None)] if self.patches is None else self.patches.cut(example.image, index)
        items = [{**item, "box": box} for _, box in patches]
        kept = [i for i, patch_item in enumerate(items) if self.selection.admits(_labels(patch_item))]
        pixels = [images.resize_and_crop(patches[i][0], self.image_size) for i in kept]
        thumbnails = None
        if self.thumbnail_size is not None:
            thumbnails = [encode_thumbnail(patches[i][0], self.thumbnail_size, self.quality) for i in kept]
        return Prepared(index, [items[i] for i in kept], pixels, thumbnails)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The rows of one example, before they are encoded.

    Attributes:
      index: the number of the example in its source.
      items: the item of each row.
      pixels: [size, size, 3] uint8 for each row.
      thumbnails: one WebP for each row, or None.
      broken: why the image cannot be read, "" if it can.
    """

    index: int
    items: list[dict[str, Any]]
    pixels: list[np.ndarray]
    thumbnails: list[bytes] | None
    broken: str = ""


class Workers:
    """Processes, or threads for few examples, that prepare examples in order, with a window of examples ahead.

    Attributes:
      count: the number of workers.
    """

    def __init__(self, source: ImageSource, preparation: Preparation, count: int | None = None) -> None:
        if count is not None and count < 0:
            raise UserError(f"workers {count} is out of range; give 0 or more")
        self.count = (min(8, os.cpu_count() or 1) if count is None else count) or 1
        self._prepare = functools.partial(_prepare, source, preparation)
        self._pool: Executor = ThreadPoolExecutor(self.count)
        if len(source) >= PROCESSES_FROM and count != 0:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, context, initializer=_start, initargs=(source, preparation))
            self._prepare = _prepare_in_worker

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def prepare(self, indices: Sequence[int]) -> Iterator[Prepared]:
        """Yields the rows of the examples with these numbers, in order.

        Raises:
          UserError: a worker process died, for example for lack of memory.
        """
        chunks = iter([indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)])
        ahead: collections.deque[Future[list[Prepared]]] = collections.deque()
        try:
            for chunk in itertools.islice(chunks, 2 * self.count + 2):
                ahead.append(self._pool.submit(self._prepare, chunk))
            while ahead:
                done = ahead.popleft().result()
                ahead.extend(self._pool.submit(self._prepare, chunk) for chunk in itertools.islice(chunks, 1))
                yield from done
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, perhaps for lack of memory; run again with fewer workers"
            ) from error


def _prepare(source: ImageSource, preparation: Preparation, indices: Sequence[int]) -> list[Prepared]:
    return [preparation(source, index) for index in indices]


# The source and the preparation of a worker process, sent once and not with every chunk.
_WORKER: list[Any] = []


def _start(source: ImageSource, preparation: Preparation) -> None:
    _WORKER[:] = [source, preparation]


def _prepare_in_worker(indices: Sequence[int]) -> list[Prepared]:
    return _prepare(_WORKER[0], _WORKER[1], indices)


def _utf8(text: str) -> str:
    """Returns the text with escapes for what is not UTF-8, for example in the name of a file."""
    return text.encode("utf-8", "backslashreplace").decode()


def _labels(item: dict[str, Any]) -> dict[str, str]:
    return {**item["attributes"], **{key: item[key] for key in ("path", "caption", "sha256")}, "id": item_id(item)}
