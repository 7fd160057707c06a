"""Outlines of masks as polygons of few points."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

TOLERANCE = 1.6  # in half pixels: of the stairs of a slanted edge all points are nearer than this to the edge


def midpoints(corners: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "m 2"]:
    """Returns the midpoints of the sides of pixels along a closed outline, in half pixels.

    They lie closer to the edge that was sampled than the corners of pixels, which stand out of it to both sides.

    Args:
      corners: the points (x, y) where the outline turns, in pixels; its parts are horizontal and vertical.
    """
    steps = np.diff(corners, axis=0, append=corners[:1])
    lengths = np.abs(steps).sum(1)
    place = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    directions = np.repeat(np.sign(steps), lengths, axis=0)
    return 2 * np.repeat(corners, lengths, axis=0) + directions * (2 * place[:, None] + 1)


def simplified(points: Int[np.ndarray, "n 2"], tolerance: float = TOLERANCE) -> Int[np.ndarray, "m 2"]:
    """Returns the points of a closed outline without those that lie within a tolerance of what remains.

    The algorithm is that of Douglas and Peucker, "Algorithms for the reduction of the number of points required to
    represent a digitized line or its caricature" (1973): a part between two points stays straight if all points between
    lie near it, and is split at the furthest one otherwise.
    """
    ring = np.concatenate([points, points[:1]])
    furthest = int(((points - points[0]) ** 2).sum(1).argmax())
    kept = np.zeros(len(ring), bool)
    kept[[0, furthest]] = True
    parts = [(0, furthest), (furthest, len(points))]
    while parts:
        first, last = parts.pop()
        distances = _distances(ring[first + 1 : last], ring[first], ring[last])
        if not len(distances) or distances.max() <= tolerance:
            continue
        middle = first + 1 + int(distances.argmax())
        kept[middle] = True
        parts += [(first, middle), (middle, last)]
    return points[kept[:-1]]


def _distances(points: Int[np.ndarray, "n 2"], start: Int[np.ndarray, "2"], end: Int[np.ndarray, "2"]) -> np.ndarray:
    """Returns the distances of points from the line through two others, or from these where they are one point."""
    offsets, line = points - start, end - start
    length = float(np.hypot(*line))
    if not length:
        return np.hypot(*offsets.T)
    return np.abs(line[0] * offsets[:, 1] - line[1] * offsets[:, 0]) / length
