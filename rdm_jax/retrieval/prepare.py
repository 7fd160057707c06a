"""From examples to what an encoder takes: decoded, cut into patches, resized, described, by several processes.

Nothing here knows of JAX, so that a worker starts quickly; the local build and the Beam pipeline both run it.
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
# Below this many pictures, processes take longer to start than they save.
PROCESSES_FROM = 2048


@dataclasses.dataclass(frozen=True)
class Patches:
    """Square patches at random places, as those of OpenImages that the released database is made of.

    Attributes:
      number: of patches a picture.
      size: the side of a patch in pixels.
      shorter_side: what a picture's shorter side is resized to first, in pixels.
      seed: of the places; patch j of picture i lies at the same place whatever else is there.

    Raises:
      UserError: a number is out of range.
    """

    number: int
    size: int = 256
    shorter_side: int = 1200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.number < 1:
            raise UserError(f"patches {self.number} is out of range; give 1 or more a picture")
        if not 8 <= self.size <= self.shorter_side:
            raise UserError(
                f"patch size {self.size} is out of range; give 8 to {self.shorter_side}, the shorter side of a picture"
            )
        if self.seed < 0:
            raise UserError(f"patch seed {self.seed} is out of range; give 0 or more")

    def cut(self, image: UInt8[np.ndarray, "h w 3"], index: int) -> list[tuple[np.ndarray, list[int]]]:
        """Returns the patches of picture `index`, each with its box (left, top, right, bottom) in the given picture."""
        picture = Image.fromarray(image)
        scale = self.shorter_side / min(picture.size)
        width, height = (max(self.shorter_side, round(side * scale)) for side in picture.size)
        generator = np.random.default_rng([self.seed, index])
        found = []
        for _ in range(self.number):
            left = int(generator.integers(0, width - self.size + 1))
            top = int(generator.integers(0, height - self.size + 1))
            right, bottom = (left + self.size) / scale, (top + self.size) / scale
            box = left / scale, top / scale, min(right, picture.width), min(bottom, picture.height)
            # Resized from the patch's own part of the picture: the whole at 1200 pixels would cost far more.
            patch = picture.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
            found.append((np.asarray(patch), [round(edge) for edge in box]))
        return found


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How an example becomes rows.

    Attributes:
      image_size: the side of the encoder's pictures in pixels.
      thumbnail_size: the side of the stored small pictures in pixels; None makes none.
      quality: of the small pictures as WebP, 1 to 100.
      patches: what is cut from a picture; None takes it whole.
      selection: leaves out pictures by what is known once they are decoded: their sha256 and id.
    """

    image_size: int
    thumbnail_size: int | None = None
    quality: int = 80
    patches: Patches | None = None
    selection: Selection = EVERYTHING

    def __call__(self, source: ImageSource, index: int) -> Prepared:
        """Returns what an example gives: rows, none where it is not wanted, or the reason why it cannot be read."""
        try:
            example = source[index]
        except ValueError as error:
            return Prepared(index, [], [], None, str(error))
        attributes = {_text(key): _text(value) for key, value in example.attributes.items()}
        told = {"path": _text(example.path), "caption": _text(example.caption), "attributes": attributes}
        item = {**told, "sha256": image_hash(example.image)}
        cut = [(example.image, None)] if self.patches is None else self.patches.cut(example.image, index)
        items = [{**item, "box": box} for _, box in cut]
        kept = [i for i, one in enumerate(items) if self.selection.admits(_names(one))]
        pixels = [images.resize_and_crop(cut[i][0], self.image_size) for i in kept]
        thumbnails = None
        if self.thumbnail_size is not None:
            thumbnails = [encode_thumbnail(cut[i][0], self.thumbnail_size, self.quality) for i in kept]
        return Prepared(index, [items[i] for i in kept], pixels, thumbnails)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What one example gives.

    Attributes:
      index: its number in the source.
      items: what is told of each row.
      pixels: [size, size, 3] uint8 for each row.
      thumbnails: one WebP for each row, or None.
      broken: why the picture cannot be read, "" if it can.
    """

    index: int
    items: list[dict[str, Any]]
    pixels: list[np.ndarray]
    thumbnails: list[bytes] | None
    broken: str = ""


class Workers:
    """Processes (or, for few examples, threads) that prepare examples in their order, a window of them ahead.

    Attributes:
      count: how many workers there are.
    """

    def __init__(self, source: ImageSource, preparation: Preparation, count: int | None = None) -> None:
        if count is not None and count < 0:
            raise UserError(f"workers {count} is out of range; give 0 or more")
        many = len(source) >= PROCESSES_FROM
        self.count = (min(8, os.cpu_count() or 1) if count is None else count) or 1
        self._task = functools.partial(_prepare, source, preparation)
        self._pool: Executor = ThreadPoolExecutor(self.count)
        if many and count != 0:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, context, initializer=_start, initargs=(source, preparation))
            self._task = _prepare_here

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def prepare(self, indices: Sequence[int]) -> Iterator[Prepared]:
        """Yields what the examples of some numbers give, in their order.

        Raises:
          UserError: a worker died, of a lack of memory say.
        """
        chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
        ahead: collections.deque[Future[list[Prepared]]] = collections.deque()
        waiting = iter(chunks)
        try:
            for chunk in itertools.islice(waiting, 2 * self.count + 2):
                ahead.append(self._pool.submit(self._task, chunk))
            while ahead:
                done = ahead.popleft().result()
                ahead.extend(self._pool.submit(self._task, chunk) for chunk in itertools.islice(waiting, 1))
                yield from done
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, perhaps for lack of memory; run again with fewer workers"
            ) from error


def _prepare(source: ImageSource, preparation: Preparation, indices: Sequence[int]) -> list[Prepared]:
    return [preparation(source, index) for index in indices]


_HERE: list[Any] = []


def _start(source: ImageSource, preparation: Preparation) -> None:
    """Gives a worker process its source once, and not with every task."""
    _HERE[:] = [source, preparation]


def _prepare_here(indices: Sequence[int]) -> list[Prepared]:
    return _prepare(_HERE[0], _HERE[1], indices)


def _text(text: str) -> str:
    """Returns a text that is UTF-8: what is not, in a file's name say, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _names(item: dict[str, Any]) -> dict[str, str]:
    return {**item["attributes"], **{key: item[key] for key in ("path", "caption", "sha256")}, "id": item_id(item)}
