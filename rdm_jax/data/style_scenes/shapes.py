"""Parts of a drawing as polygons and strokes, and the curves they are made of.

Coordinates are (x, y), x to the right and y down.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

Points: TypeAlias = Float[np.ndarray, "_ 2"]


class Role(enum.IntEnum):
    """What a part is painted as; each style gives each role its color, tone or line."""

    GROUND = 0
    FLOOR = 1
    MAIN = 2
    SHADE = 3
    TINT = 4
    WHITE = 5
    INK = 6
    WOOD = 7
    LEAF = 8
    BONE = 9
    FLAME = 10
    MIST = 11


@dataclass(frozen=True)
class Part:
    """One shape of a drawing.

    Attributes:
      role: what it is painted as.
      points: [n, 2] the polygon's corners, or the stroke's points.
      width: 0 for a filled polygon, else the width of an open stroke.
      line: whether styles that draw contours draw this part's contour.
    """

    role: Role
    points: Points
    width: float = 0.0
    line: bool = True


def polygon(*corners: tuple[float, float]) -> Points:
    """Returns the polygon [n, 2] with the corners given."""
    return np.array(corners, np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """Returns the four corners of an upright rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, n: int = 20) -> Points:
    """Returns `n` points of an elliptic arc; angles in turns, 0 to the right and 0.25 downward."""
    angle = 2 * np.pi * np.linspace(start, stop, n)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, n: int = 24) -> Points:
    """Returns an ellipse as a polygon of `n` corners, turned about its center by `turn` radians."""
    points = arc(0.0, 0.0, rx, ry, 0.0, 1.0 - 1.0 / n, n)
    return points @ rotation(turn) + np.array([x, y])


def rotation(angle: float) -> Float[np.ndarray, "2 2"]:
    """Returns the matrix that turns row vectors by `angle` radians, clockwise as seen."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]])


def cloud(x: float, y: float, rx: float, ry: float, bumps: int, depth: float, phase: float) -> Points:
    """Returns an ellipse whose edge has `bumps` round bulges of the relative height `depth`."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 1 - depth + depth * 2 * np.abs(np.sin(0.5 * bumps * angle + phase))
    return np.stack([x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)], 1)


def crescent(x: float, y: float, rx: float, ry: float, start: float, stop: float, depth: float) -> Points:
    """Returns the sickle between an elliptic arc and a flatter one, `depth` (of the radius) thick at its middle."""
    t = np.linspace(0, 1, 16)
    thickness = 1 - depth * np.sin(np.pi * t)
    angle = 2 * np.pi * (start + (stop - start) * t)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    unit = np.concatenate([ring, (ring * thickness[:, None])[::-1]])
    return unit * np.array([rx, ry]) + np.array([x, y])


def smooth(corners: Points, steps: int = 6) -> Points:
    """Returns a closed Catmull-Rom curve through the corners, `steps` points for each."""
    p0, p1, p2, p3 = (np.roll(corners, k, 0)[:, None] for k in (1, 0, -1, -2))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    return (0.5 * curve).reshape(-1, 2)


def ribbon(points: Points, width: float, end_width: float | None = None) -> Points:
    """Returns the polygon of a thick line along the points, its width going from `width` to `end_width`."""
    along = np.gradient(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    normal = np.stack([-along[:, 1], along[:, 0]], 1)
    half = 0.5 * np.linspace(width, width if end_width is None else end_width, len(points))[:, None]
    return np.concatenate([points + half * normal, (points - half * normal)[::-1]])


def spokes(inner: float, outer: float, n: int, phase: float) -> Points:
    """Returns a star with `n` points: corners by turns at the radii `outer` and `inner`, the first one upward."""
    angle = phase - 0.5 * np.pi + np.pi * np.arange(2 * n) / n
    radius = np.where(np.arange(2 * n) % 2 == 0, outer, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
