"""Proportions and means with their intervals, in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

Z95 = 1.959963984540054


def wilson(hits: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Returns Wilson's interval of the proportion `hits` of `count`, (0, 1) if `count` is 0.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Args:
      hits: in [0, count].
      count: the number of trials.
      z: the normal quantile, 1.96 for 95 %.
    """
    if count == 0:
        return 0.0, 1.0
    rate, square = hits / count, z * z
    center = (rate + square / (2 * count)) / (1 + square / count)
    half = z / (1 + square / count) * math.sqrt(rate * (1 - rate) / count + square / (4 * count * count))
    # At the ends the interval touches 0 or 1, which rounding would miss.
    return (0.0 if hits == 0 else max(0.0, center - half)), (1.0 if hits == count else min(1.0, center + half))


@dataclasses.dataclass(frozen=True)
class Proportion:
    """A proportion with its 95 % interval."""

    hits: int
    count: int

    @property
    def rate(self) -> float:
        """hits / count, NaN if the count is 0."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.hits, self.count)

    def to_json(self) -> dict[str, Any]:
        """Returns rate (None if the count is 0), low, high, hits and count."""
        low, high = self.interval
        rate = self.rate if self.count else None
        return {"rate": rate, "low": low, "high": high, "hits": self.hits, "count": self.count}


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean with the 95 % interval of the normal approximation."""

    value: float
    error: float
    count: int

    @staticmethod
    def of(values: Float[np.ndarray, " n"]) -> Mean:
        """Returns the mean of numbers with its standard error, which is infinite for a single one.

        Raises:
          ValueError: there are none.
        """
        if not len(values):
            raise ValueError("the mean of no numbers")
        exact = values.astype(np.float64)
        error = float(exact.std(ddof=1) / math.sqrt(len(exact))) if len(exact) > 1 else math.inf
        return Mean(float(exact.mean()), error, len(exact))

    @property
    def interval(self) -> tuple[float, float]:
        """The mean minus and plus 1.96 standard errors."""
        return self.value - Z95 * self.error, self.value + Z95 * self.error

    def to_json(self) -> dict[str, Any]:
        """Returns mean, low, high (None for a single number) and count."""
        low, high = (None if math.isinf(end) else end for end in self.interval)
        return {"mean": self.value, "low": low, "high": high, "count": self.count}
