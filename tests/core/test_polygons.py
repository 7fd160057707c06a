"""Outlines of shapes whose edges are known, as polygons."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_jax.core.polygons import midpoints, simplified

SQUARE = np.array([[0, 0], [6, 0], [6, 4], [0, 4]])


def stairs(angle, steps=60):
    """Returns the corners of a triangle of pixels below a line of a slope in (0, 1)."""
    heights = np.floor(np.arange(1, steps + 1) * angle).astype(int)
    corners = [[0, 0]]
    for x, height in enumerate(heights):
        corners += [[x, height], [x + 1, height]]
    corners = np.array([*corners, [steps, -1], [0, -1]])
    return corners[np.r_[True, np.abs(np.diff(corners, axis=0)).sum(1) > 0]]


def test_midpoints_are_those_of_every_side():
    points = midpoints(SQUARE)
    assert len(points) == 20
    assert points[:6].tolist() == [[x, 0] for x in range(1, 12, 2)]
    assert points[-1].tolist() == [0, 1]
    assert (points.sum(1) % 2 == 1).all()


def test_a_last_corner_that_is_the_first_one_adds_nothing():
    assert np.array_equal(midpoints(np.concatenate([SQUARE, SQUARE[:1]])), midpoints(SQUARE))


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.37, 0.5, 0.99])
def test_a_slanted_edge_is_one_line(slope):
    points = simplified(midpoints(stairs(slope)))
    assert 3 <= len(points) <= 6


@pytest.mark.parametrize("tolerance", [0.5, 1.6, 5.0])
def test_no_point_is_further_away_than_the_tolerance(tolerance):
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = np.round(100 * np.stack([np.cos(angle), np.sin(angle)], -1)).astype(int)
    kept = simplified(circle, tolerance)
    start, end = kept, np.roll(kept, -1, axis=0)
    lines = (end - start)[None]
    places = (((circle[:, None] - start) * lines).sum(-1) / (lines**2).sum(-1)).clip(0, 1)
    distances = np.sqrt(((circle[:, None] - start - places[..., None] * lines) ** 2).sum(-1)).min(1)
    assert distances.max() <= tolerance + 1e-9
    assert len(kept) < len(circle) / 3
