"""The Fréchet distance of two sets of features, from means and covariances that are accumulated batch by batch."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from rdm_jax.core.errors import UserError


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
        """Returns the moments of the old rows and the new ones [n, d]."""
        if not len(rows):
            return self
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        deviations = rows - mean[None]
        return self.merge(Moments(len(rows), mean, deviations.T @ deviations))

    def merge(self, other: Moments) -> Moments:
        """Returns the moments of both sets of rows, such as those of two processes.

        T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances" (1979), equation 2.1: stable, whatever the sizes.
        """
        total = self.count + other.count
        if not total:
            return self
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.count * other.count / total)
        return Moments(total, self.mean + step * (other.count / total), self.scatter + other.scatter + between)

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


def require_rank(moments: Moments, what: str) -> None:
    """Raises UserError unless there are enough rows for a covariance of full rank, one more than its width.

    Below that the distance is biased by far more than the differences that it is to measure.

    Args:
      moments: of a set.
      what: the name of the set, as the message starts.
    """
    width = len(moments.mean)
    if moments.count <= width:
        raise UserError(
            f"{what} has {moments.count} images, and a covariance of {width} features needs {width + 1}; give more "
            "images, use kid, or --allow-few for a distance that is biased by it"
        )


def frechet_distance(a: Moments, b: Moments) -> float:
    """Returns the squared Fréchet distance of the Gaussians with these moments.

    `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))` (https://arxiv.org/abs/1706.08500, equation 6). The trace of the
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
