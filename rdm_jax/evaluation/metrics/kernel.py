"""Kernel distances of two sets of features: the unbiased polynomial one (KID) and the Gaussian one (CMMD)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit

SUBSETS, SUBSET_SIZE = 100, 1000  # of KID
KID_SEED = 2020  # the seed of torch-fidelity's subsets
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
CHUNK = 2048  # rows of a kernel matrix at once

Features = Float[np.ndarray, "n d"]


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """A mean over random subsets.

    Attributes:
      mean: of the squared distances; slightly below 0 is a valid value of an unbiased estimate.
      std: the standard deviation over the subsets.
      subsets: how many there are.
      size: rows of each.
    """

    mean: float
    std: float
    subsets: int
    size: int


def kernel_distance(
    a: Features,
    b: Float[np.ndarray, "m d"],
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = KID_SEED,
) -> KernelDistance:
    """Returns the kernel inception distance (https://arxiv.org/abs/1801.01401, section 4) over random subsets.

    The squared maximum mean discrepancy by the kernel (x.y / d + 1)^3, unbiased. Subsets are those of torch-fidelity
    for the same seed.

    Args:
      a: of the images.
      b: of the reference.
      subsets: how many are averaged.
      size: rows of each subset, chosen without replacement.
      seed: of the choice.

    Raises:
      UserError: one of the sets has fewer rows than a subset.
    """
    fewest = min(len(a), len(b))
    if fewest < size:
        raise UserError(
            f"the kernel distance takes subsets of {size} images, and a set has {fewest}; give {size} or more, or a "
            f"smaller --subset-size"
        )
    generator = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        first = a[generator.choice(len(a), size, replace=False)]
        second = b[generator.choice(len(b), size, replace=False)]
        found.append(polynomial_mmd(first, second))
    return KernelDistance(float(np.mean(found)), float(np.std(found)), subsets, size)


def polynomial_mmd(a: Features, b: Float[np.ndarray, "m d"]) -> float:
    """Returns the unbiased squared maximum mean discrepancy by the kernel (x.y / d + 1)^3.

    https://arxiv.org/abs/1801.01401, equation 4: the diagonals of the two inner kernel matrices are omitted.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    own = [(_polynomial(z, z).sum() - _polynomial_diagonal(z).sum()) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(own[0] + own[1] - 2 * _polynomial(x, y).mean())


def _polynomial(x: Features, y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _polynomial_diagonal(x: Features) -> Float[np.ndarray, " n"]:
    return (np.square(x).sum(axis=1) / x.shape[1] + 1.0) ** 3


def gaussian_mmd(
    a: Features, b: Float[np.ndarray, "m d"], sigma: float = CMMD_SIGMA, scale: float = CMMD_SCALE
) -> float:
    """Returns CMMD's distance of two sets of CLIP vectors (https://arxiv.org/abs/2401.09603, section 4).

    The squared maximum mean discrepancy of unit vectors by the kernel `exp(-|x - y|^2 / (2 sigma^2))`, with the
    diagonals (the estimate of minimum variance), times `scale`. Kernel matrices are summed in chunks of rows.

    Args:
      a: of the images; scaled to length 1 here.
      b: of the reference.
      sigma: of the kernel.
      scale: of the result.

    Raises:
      UserError: a set is empty.
    """
    if not (len(a) and len(b)):
        raise UserError("the Gaussian kernel distance needs at least 1 image in each set, and one set is empty")
    x, y = unit(a.astype(np.float64)), unit(b.astype(np.float64))
    inner = [_gaussian_mean(z, z, sigma) for z in (x, y)]
    return float(scale * (inner[0] + inner[1] - 2 * _gaussian_mean(x, y, sigma)))


def _gaussian_mean(x: Features, y: Float[np.ndarray, "m d"], sigma: float) -> float:
    """Returns the mean of the kernel over all pairs of unit vectors, of which |x - y|^2 = 2 - 2 x.y."""
    total = sum(
        float(np.exp((x[start : start + CHUNK] @ y.T - 1.0) / sigma**2).sum()) for start in range(0, len(x), CHUNK)
    )
    return total / (len(x) * len(y))
