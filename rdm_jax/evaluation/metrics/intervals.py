"""Bootstrap intervals: of the mean of one number for each image, and of any statistic of a set of images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Shaped

RESAMPLES = 1000
LEVEL = 0.95
CHUNK = 2**22  # indices in memory at once

Interval = tuple[float, float]


def bootstrap_mean(
    values: Shaped[np.ndarray, " n"], resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Returns the percentile interval of the mean (B. Efron, "Better bootstrap confidence intervals", JASA 82, 1987).

    Args:
      values: one number for each image; booleans count as 0 and 1.
      resamples: of as many values, with replacement.
      seed: of the choice.
      level: the probability that the interval holds the mean.

    Raises:
      ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("an interval of no numbers")
    exact = values.astype(np.float64)
    generator = np.random.default_rng(seed)
    at_once = max(1, CHUNK // len(exact))
    means = []
    for start in range(0, resamples, at_once):
        rows = generator.integers(0, len(exact), (min(at_once, resamples - start), len(exact)))
        means.append(exact[rows].mean(axis=1))
    return _ends(np.concatenate(means), level)


def bootstrap_statistic(
    count: int,
    statistic: Callable[[Int[np.ndarray, " n"]], float],
    resamples: int,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Returns the interval in which a statistic of other sets of this size lies: the value, plus deviations.

    A resample holds many images twice, which moves distances of distributions up. The deviations are therefore those of
    the resamples from their own mean, and not from the value.

    Args:
      count: the number of images.
      statistic: of the images with these rows.
      resamples: how often it is computed.
      seed: of the choice.
      level: the probability that the interval holds the value.
    """
    generator = np.random.default_rng(seed)
    center = statistic(np.arange(count))
    found = np.array([statistic(generator.integers(0, count, count)) for _ in range(resamples)])
    return _ends(center + found - found.mean(), level)


def _ends(values: Float[np.ndarray, " r"], level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
