"""Proportions with their intervals, streaming moments, the Frechet distance, PSNR, nearest images; in float64."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax.core.vectors import unit

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


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and scatter of the rows so far.

    Attributes:
      count: of the rows.
      mean: [d].
      scatter: [d, d] the sum over rows of (x - mean)(x - mean)^T.
    """

    count: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]

    @staticmethod
    def empty(width: int) -> Moments:
        """Returns the moments of no rows of `width` numbers."""
        return Moments(0, np.zeros(width), np.zeros((width, width)))

    def add(self, rows: Float[np.ndarray, "n d"]) -> Moments:
        """Returns the moments of the old rows and the new ones [n, d].

        T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances" (1979), equation 2.1: stable, whatever the batches.
        """
        if not len(rows):
            return self
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        deviations = rows - mean[None]
        total = self.count + len(rows)
        step = mean - self.mean
        between = np.outer(step, step) * (self.count * len(rows) / total)
        return Moments(
            total, self.mean + step * (len(rows) / total), self.scatter + deviations.T @ deviations + between
        )

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The sample covariance, divided by count - 1.

        Raises:
          ValueError: there are fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, and there are {self.count}")
        return self.scatter / (self.count - 1)


def moments_of(features: Float[np.ndarray, "n d"]) -> Moments:
    """Returns the moments of all rows at once."""
    return Moments.empty(features.shape[1]).add(features)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Returns the squared Frechet distance of the Gaussians with these moments.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (https://arxiv.org/abs/1706.08500, equation 6). The trace of the
    root is taken from the symmetric A C_b A with A = C_a^(1/2), which has the same eigenvalues and needs no complex
    arithmetic.

    Raises:
      ValueError: one of them has fewer than two rows.
    """
    first, second = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))[None]) @ vectors.T
    product = root @ second @ root
    crossed = np.linalg.eigvalsh((product + product.T) / 2)
    trace = np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(crossed, 0.0)).sum()
    return float(max(0.0, np.sum((a.mean - b.mean) ** 2) + trace))


def psnr(
    a: UInt8[np.ndarray, "n h w c"], b: UInt8[np.ndarray, "n h w c"], ceiling: float = 99.0
) -> Float[np.ndarray, " n"]:
    """Returns the peak signal-to-noise ratio of each pair of images in dB, `ceiling` for equal ones."""
    error = np.square(a.astype(np.float64) - b.astype(np.float64)).mean(axis=(1, 2, 3))
    return np.minimum(ceiling, 10 * np.log10(255.0**2 / np.maximum(error, 1e-12)))


def nearest_rmse(images: UInt8[np.ndarray, "n h w c"], others: UInt8[np.ndarray, "m h w c"]) -> Float[np.ndarray, " n"]:
    """Returns each image's root mean squared pixel difference, in levels of 255, to the nearest of the others."""
    a = images.reshape(len(images), -1).astype(np.float32)
    b = others.reshape(len(others), -1).astype(np.float32)
    nearest = ((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T).argmin(axis=1)
    # The expanded square loses digits where images are nearly equal, so the distance is computed again.
    return np.sqrt(np.square(a.astype(np.float64) - b[nearest].astype(np.float64)).mean(axis=1))


def nearest_cosine(features: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " n"]:
    """Returns each feature vector's cosine with the most similar of the others."""
    return (unit(features.astype(np.float64)) @ unit(others.astype(np.float64)).T).max(axis=1)
