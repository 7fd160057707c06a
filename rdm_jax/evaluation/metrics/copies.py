"""Copy check: the nearest training or database image of each image, by features or by pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit

CHUNK = 4096  # images compared at once


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The most similar of other images, for each image.

    Attributes:
      cosines: [n] in [-1, 1].
      rows: [n] which of the others it is.
    """

    cosines: Float[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]

    def above(self, threshold: float) -> Bool[np.ndarray, " n"]:
        """Returns for each image whether its nearest one is more similar than the threshold."""
        return self.cosines > threshold


def nearest(features: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]) -> Nearest:
    """Returns the most similar of the others by cosine, in chunks of rows of both.

    Raises:
      UserError: there are no others.
    """
    if not len(others):
        raise UserError("the copy check compares with training or database images, and there are none; give some")
    cosines, rows = np.full(len(features), -np.inf), np.zeros(len(features), np.int64)
    queries = unit(features.astype(np.float64))
    for start in range(0, len(others), CHUNK):
        part = unit(others[start : start + CHUNK].astype(np.float64))
        for first in range(0, len(queries), CHUNK):
            block = slice(first, first + CHUNK)
            similar = queries[block] @ part.T
            best = similar.argmax(axis=1)
            value = similar[np.arange(len(best)), best]
            better = value > cosines[block]
            rows[block] = np.where(better, best + start, rows[block])
            cosines[block] = np.maximum(cosines[block], value)
    return Nearest(cosines, rows)


def nearest_cosine(features: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " n"]:
    """Returns each feature vector's cosine with the most similar of the others."""
    return nearest(features, others).cosines


def nearest_rmse(images: UInt8[np.ndarray, "n h w c"], others: UInt8[np.ndarray, "m h w c"]) -> Float[np.ndarray, " n"]:
    """Returns each image's root mean squared pixel difference, in levels of 255, to the nearest of the others."""
    a = images.reshape(len(images), -1).astype(np.float32)
    b = others.reshape(len(others), -1).astype(np.float32)
    row = ((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T).argmin(axis=1)
    # The expanded square loses digits where images are nearly equal, so the distance is computed again.
    return np.sqrt(np.square(a.astype(np.float64) - b[row].astype(np.float64)).mean(axis=1))
