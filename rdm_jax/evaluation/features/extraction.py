"""The features of all images of a set: read in threads, evaluated in batches, accumulated in constant memory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rdm_jax.core import distributed
from rdm_jax.core.errors import UserError
from rdm_jax.core.left_out import LeftOut
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.data.examples import Example, ImageSource
from rdm_jax.evaluation.features.networks import FeatureNetwork
from rdm_jax.evaluation.metrics.frechet import Moments

THREADS = 8
MOST_SIZES = 8  # that a record lists


@dataclasses.dataclass
class Contents:
    """What a set of images consists of.

    Attributes:
      name: of the set.
      paths: of the images that were read, in order.
      captions: of each of these, "" if there is none.
      rows: the number of each of these in its source.
      left_out: the files that could not be read.
      sizes: how many images have each size, "64x48" is wide and low.
      formats: how many have each suffix.
      gray: how many have three equal channels.
      digests: a hash over the pixels of each image.
    """

    name: str
    paths: list[str] = dataclasses.field(default_factory=list)
    captions: list[str] = dataclasses.field(default_factory=list)
    rows: list[int] = dataclasses.field(default_factory=list)
    left_out: LeftOut = dataclasses.field(default_factory=lambda: LeftOut("image"))
    sizes: Counter[str] = dataclasses.field(default_factory=Counter)
    formats: Counter[str] = dataclasses.field(default_factory=Counter)
    gray: int = 0
    digests: list[bytes] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def sha256(self) -> str:
        """A hash over the pixels of all images in order."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()

    @property
    def record(self) -> dict[str, Any]:
        """What defines the set, as JSON values."""
        return {
            "name": self.name,
            "images": len(self),
            "left_out": len(self.left_out),
            "sizes": dict(self.sizes.most_common(MOST_SIZES)),
            "formats": dict(self.formats.most_common(MOST_SIZES)),
            "gray": self.gray,
            "sha256": self.sha256,
        }

    @property
    def remarks(self) -> list[str]:
        """What a reader of the numbers must know of the set, in one line each."""
        found = []
        if len(self.left_out):
            found.append(f"{self.name}: {self.left_out}")
        if len(self.sizes) > 1:
            sizes = ", ".join(f"{count} of {size}" for size, count in self.sizes.most_common(3))
            found.append(f"{self.name}: images of {len(self.sizes)} sizes ({sizes}, ...); each is resized on its own")
        if self.gray:
            found.append(f"{self.name}: {self.gray} of {len(self)} images are gray, which moves distances of features")
        return found


@dataclasses.dataclass(frozen=True)
class SetFeatures:
    """Features of the images of a set.

    Attributes:
      moments: of all features.
      features: [n, d] in float32; None where only the moments were kept.
      logits: [n, c] in float32; None as the features, and of a network without classes.
    """

    moments: Moments
    features: Float[np.ndarray, "n d"] | None = None
    logits: Float[np.ndarray, "n c"] | None = None


def extract(
    source: ImageSource,
    networks: Sequence[FeatureNetwork],
    keep: bool,
    progress: ProgressCallback | None = None,
) -> tuple[Contents, list[SetFeatures]]:
    """Returns the contents of a set and its features by each network, from one pass over the images.

    Each process reads its part of the images, and all of them return the whole. Images that cannot be read are left out
    and counted. Without `keep` the memory does not grow with the number of
    images, except for their paths and captions.

    Args:
      source: of the images.
      networks: each sees every image.
      keep: whether the features of each image are kept, beside their moments.
      progress: called with (images done, images in all).

    Raises:
      UserError: no image can be read.
    """
    contents, sums = Contents(source.name), [_Sum(network, keep) for network in networks]
    for rows, examples in _read(source, progress):
        kept = [(row, one) for row, one in zip(rows, examples, strict=True) if isinstance(one, Example)]
        for row, one in zip(rows, examples, strict=True):
            if not isinstance(one, Example):
                contents.left_out.add_line(one if ": " in one else f"image {row}: {one}")
        for row, example in kept:
            _count(contents, row, example)
        for each in sums:
            each.add([example for _, example in kept])
    contents, found = _joined(distributed.gather((contents, [each.finish() for each in sums])))
    if not len(contents):
        raise UserError(f"no image of {source.name} can be read: {contents.left_out}; give other images")
    return contents, found


def _joined(parts: Sequence[tuple[Contents, list[SetFeatures]]]) -> tuple[Contents, list[SetFeatures]]:
    """Returns the contents and features of all processes as those of one, images in the order of their rows."""
    if len(parts) == 1:
        return parts[0]
    whole, of_all = Contents(parts[0][0].name), [contents for contents, _ in parts]
    order = np.argsort(np.concatenate([contents.rows for contents in of_all]), kind="stable")
    for name in ("paths", "captions", "rows", "digests"):
        values = [value for contents in of_all for value in getattr(contents, name)]
        getattr(whole, name).extend(values[place] for place in order)
    for contents in of_all:
        whole.sizes += contents.sizes
        whole.formats += contents.formats
        whole.gray += contents.gray
        whole.left_out.merge(contents.left_out)
    found = []
    for each in zip(*(features for _, features in parts), strict=True):
        moments = functools.reduce(Moments.merge, (one.moments for one in each))
        kept = [[getattr(one, name) for one in each] for name in ("features", "logits")]
        found.append(SetFeatures(moments, *(_ordered(arrays, order) for arrays in kept)))
    return whole, found


def _ordered(arrays: Sequence[np.ndarray | None], order: np.ndarray) -> np.ndarray | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present)[order] if present else None


def _count(contents: Contents, row: int, example: Example) -> None:
    height, width = example.image.shape[:2]
    contents.paths.append(example.path)
    contents.captions.append(example.caption)
    contents.rows.append(row)
    contents.sizes[f"{width}x{height}"] += 1
    contents.formats[posixpath.splitext(example.path)[1].lower() or "none"] += 1
    contents.digests.append(hashlib.sha256(repr(example.image.shape).encode() + example.image.tobytes()).digest())
    contents.gray += bool((example.image == example.image[..., :1]).all())


def _read(
    source: ImageSource, progress: ProgressCallback | None, size: int = 4 * THREADS
) -> Iterator[tuple[range, list[Example | str]]]:
    """Yields (rows, their examples) of this process, and reads ahead; an image that cannot be read is the reason."""

    def load(row: int) -> Example | str:
        try:
            return source[row]
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        own = range(jax.process_index(), len(source), jax.process_count())
        chunks = [own[start : start + size] for start in range(0, len(own), size)]
        waiting = [pool.submit(load, row) for row in chunks[0]] if chunks else []
        for number, rows in enumerate(chunks):
            ahead = chunks[number + 1] if number + 1 < len(chunks) else range(0)
            following = [pool.submit(load, row) for row in ahead]
            yield rows, [future.result() for future in waiting]
            waiting = following
            if progress:
                progress(min(rows[-1] + jax.process_count(), len(source)), len(source))


class _Sum:
    """The features of one network so far; images wait until there are enough for a batch."""

    def __init__(self, network: FeatureNetwork, keep: bool) -> None:
        self._network, self._keep = network, keep
        self._moments = Moments.empty(network.width)
        self._waiting: list[np.ndarray] = []
        self._kept: dict[str, list[np.ndarray]] = {"features": [], "logits": []}

    def add(self, examples: Sequence[Example]) -> None:
        """Adds images."""
        with ThreadPoolExecutor(THREADS) as pool:
            self._waiting += pool.map(lambda example: self._network.prepare(example.image), examples)
        while len(self._waiting) >= self._network.batch:
            self._flush()

    def finish(self) -> SetFeatures:
        """Returns the features of all images."""
        while self._waiting:
            self._flush()
        kept = {name: np.concatenate(parts) if parts else None for name, parts in self._kept.items()}
        return SetFeatures(self._moments, kept["features"], kept["logits"])

    def _flush(self) -> None:
        batch, self._waiting = self._waiting[: self._network.batch], self._waiting[self._network.batch :]
        outputs = self._network(np.stack(batch))
        if not np.isfinite(outputs["features"]).all():
            raise UserError(f"features of {self._network.title} are not finite; convert its weights again")
        self._moments = self._moments.add(outputs["features"])
        for name, parts in self._kept.items():
            if self._keep and name in outputs:
                parts.append(outputs[name])
