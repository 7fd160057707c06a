"""The records of a training with style neighbors: random groups of images of one style."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Groups:
    """Groups of images of one style; a style is as frequent as its images.

    Attributes:
      style: [n] the number of the style of each image of the set.
      held_out: [m] the images kept for evaluation, sorted.
      most: the most images of a style that an epoch has, spread evenly over its images; 0 takes all.
      size: of a group.
    """

    style: Int[np.ndarray, " n"]
    held_out: Int[np.ndarray, " m"]
    most: int
    size: int

    def __len__(self) -> int:
        return len(self.rows) // self.size

    @functools.cached_property
    def rows(self) -> Int[np.ndarray, " m"]:
        """The images of an epoch, sorted by style."""
        order = np.argsort(self.style, kind="stable")
        begin, length = _runs(self.style[order])
        most = np.minimum(length, self.most or len(order))
        number = np.arange(len(order)) - begin
        taken = (number + 1) * most // length > number * most // length
        return order[taken & ~np.isin(order, self.held_out)]

    @property
    def shown(self) -> Int[np.ndarray, " m"]:
        """The images of an epoch and of the evaluation, sorted."""
        return np.union1d(self.rows, self.held_out)

    @functools.cached_property
    def _runs(self) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        return _runs(self.style[self.rows])

    def read(self, number: int, generator: np.random.Generator) -> Int[np.ndarray, " size"]:
        """Returns the images of a group.

        Args:
          number: of the group; the first image is one of this part of the epoch, the others are of its style.
          generator: of the random numbers.
        """
        place = number * self.size + int(generator.integers(self.size))
        begin, length = (int(values[place]) for values in self._runs)
        others = self.rows[generator.integers(begin, begin + length, self.size)]
        others[0] = self.rows[place]
        return others


def _runs(values: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Returns where the run of each of the sorted values begins, and its length."""
    begin = np.searchsorted(values, values, side="left")
    return begin, np.searchsorted(values, values, side="right") - begin
