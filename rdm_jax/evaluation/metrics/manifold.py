"""Precision and recall, density and coverage: whether images lie among the reference's, by k-nearest neighbors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from rdm_jax.core.errors import UserError

PRECISION_K = 3  # of https://arxiv.org/abs/1904.06991, torch-fidelity and ADM's evaluator
COVERAGE_K = 5  # of https://arxiv.org/abs/2002.09797
CHUNK = 1024  # rows of a distance matrix at once

Features = Float[np.ndarray, "n d"]


@dataclasses.dataclass(frozen=True)
class Manifold:
    """For each image, what it contributes; each metric is the mean of one array.

    Attributes:
      precision: [n] whether an image of the first set lies in a ball of the reference.
      recall: [m] whether an image of the reference lies in a ball of the first set.
      density: [n] the number of the reference's balls that hold an image, over k; may exceed 1.
      coverage: [m] whether an image of the first set lies in the ball of an image of the reference.
    """

    precision: Bool[np.ndarray, " n"]
    recall: Bool[np.ndarray, " m"]
    density: Float[np.ndarray, " n"]
    coverage: Bool[np.ndarray, " m"]


def manifold(
    a: Features, reference: Float[np.ndarray, "m d"], k: int = PRECISION_K, coverage_k: int = COVERAGE_K
) -> Manifold:
    """Returns precision and recall (https://arxiv.org/abs/1904.06991), density and coverage (2002.09797).

    The ball of an image reaches to its k-th nearest neighbor in its own set. Distances are in float64, in chunks of
    rows: memory grows with the number of images, not with its square.

    Args:
      a: of the images.
      reference: of the real images.
      k: of precision and recall.
      coverage_k: of density and coverage.

    Raises:
      UserError: a set has too few images for k neighbors.
    """
    largest = max(k, coverage_k)
    fewest = min(len(a), len(reference))
    if fewest <= largest:
        raise UserError(f"{largest} nearest neighbors need {largest + 1} images in each set, and one has {fewest}")
    own = radii(a, [k])[0]
    theirs, wider = radii(reference, [k, coverage_k])
    precision, density = np.zeros(len(a), bool), np.zeros(len(a))
    recall, nearest = np.zeros(len(reference), bool), np.full(len(reference), np.inf)
    for rows, squares in _chunks(a, reference):
        precision[rows] = (squares <= theirs[None]).any(axis=1)
        density[rows] = (squares < wider[None]).sum(axis=1) / coverage_k
        recall |= (squares <= own[rows, None]).any(axis=0)
        nearest = np.minimum(nearest, squares.min(axis=0))
    return Manifold(precision, recall, density, nearest < wider)


def radii(features: Features, ks: list[int]) -> list[Float[np.ndarray, " n"]]:
    """Returns for each k the squared distances of all rows to their k-th nearest other row."""
    found = [np.zeros(len(features)) for _ in ks]
    for rows, squares in _chunks(features, features):
        numbers = np.arange(rows.start, rows.stop)
        squares[numbers - rows.start, numbers] = -1.0  # a row comes first among its own neighbors
        ordered = np.partition(squares, sorted(ks), axis=1)
        for k, radius in zip(ks, found, strict=True):
            radius[rows] = ordered[:, k]
    return found


def _chunks(a: Features, b: Float[np.ndarray, "m d"]) -> Iterator[tuple[slice, Float[np.ndarray, "rows m"]]]:
    """Yields squared distances of some rows of `a` to all rows of `b`.

    Both are shifted by one mean first: |x - y|^2 = |x|^2 + |y|^2 - 2 x.y loses digits where vectors are long and near.
    """
    center = b.mean(axis=0, dtype=np.float64)[None]
    second = b.astype(np.float64) - center
    lengths = np.square(second).sum(axis=1)
    for start in range(0, len(a), CHUNK):
        rows = slice(start, min(start + CHUNK, len(a)))
        first = a[rows].astype(np.float64) - center
        squares = np.square(first).sum(axis=1)[:, None] + lengths[None] - 2 * first @ second.T
        yield rows, np.maximum(squares, 0.0)
