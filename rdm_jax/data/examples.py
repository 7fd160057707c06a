"""The contract of an image source: examples by number, and the selection of some of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core.errors import UserError
from rdm_jax.core.files import sha256_json
from rdm_jax.data.selection import Selection


@dataclasses.dataclass(frozen=True)
class Example:
    """One image with its caption and attributes.

    Attributes:
      image: uint8 RGB [h, w, 3].
      caption: the text, "" if there is none.
      path: the path below the source's root, with forward slashes.
      attributes: the other fields of the source, as texts.
    """

    image: UInt8[np.ndarray, "h w 3"]
    caption: str
    path: str
    attributes: Mapping[str, str]


@runtime_checkable
class ImageSource(Protocol):
    """Examples by number; `source[i]` raises ValueError with a reason if the image is broken."""

    @property
    def name(self) -> str:
        """A short name, for messages and as the default name of a database."""
        ...

    @property
    def captions(self) -> str:
        """Where the captions come from, in a few words."""
        ...

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with the images, the captions or their order."""
        ...

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of examples in each file, in order; a single number if the set is not stored in shards."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...

    def labels(self, index: int, /) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of an example without decoding its image."""
        ...


@dataclasses.dataclass(frozen=True)
class SelectedExamples:
    """Some examples of a source, as a source.

    Attributes:
      source: the full source.
      rows: the numbers of the selected examples in `source`.
    """

    source: ImageSource
    rows: Sequence[int]

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    @property
    def captions(self) -> str:
        """Where the captions come from."""
        return self.source.captions

    @property
    def fingerprint(self) -> str:
        """A hash over the source's fingerprint and the selected numbers."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return sha256_json([self.source.fingerprint, list(self.rows)])

    @property
    def shard_lengths(self) -> Sequence[int]:
        """The number of examples: a selection is not stored in shards."""
        return (len(self),)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.rows[index]]

    def labels(self, index: int) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of an example."""
        return self.source.labels(self.rows[index])


def select_examples(
    source: ImageSource, selection: Selection, limit: int | None = None, spread: int | None = None
) -> ImageSource:
    """Returns the examples that a selection admits, or the source itself if these are all of it.

    Args:
      source: of the examples.
      selection: which of them are admitted.
      limit: takes the first ones, at most so many.
      spread: takes at most so many, spread evenly over those that are admitted.

    Raises:
      UserError: `limit` or `spread` is below 1, both are given, or no example is left.
    """
    for name, count in (("limit", limit), ("spread", spread)):
        if count is not None and count < 1:
            raise UserError(f"{name} {count} leaves no images; give 1 or more")
    if limit is not None and spread is not None:
        raise UserError(f"limit {limit} and spread {spread}: give one of them")
    rows: Sequence[int] = range(len(source))
    if selection:
        rows = [row for row in rows if selection.admits(source.labels(row))]
    if not len(rows):
        raise UserError(f"no images of {source.name} are left; check --where and the exclusions")
    if spread is not None and spread < len(rows):
        rows = [rows[(2 * place + 1) * len(rows) // (2 * spread)] for place in range(spread)]
    return source if len(rows[:limit]) == len(source) else SelectedExamples(source, rows[:limit])
