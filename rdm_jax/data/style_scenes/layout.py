"""The pose of a subject in its image: rotation, stretch, mirroring, scale, position, and the floor or water below."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from rdm_jax.data.style_scenes.shapes import Part, Points, Role, polygon, rotation
from rdm_jax.data.style_scenes.subjects import SUBJECT_PAINTERS

Layout: TypeAlias = tuple[Part, ...]
"""The parts of an image from back to front, in image coordinates: [0, 1], x to the right and y down."""

MAX_TURN = {"sun": 0.3, "star": 0.6, "rocket": 0.65, "fish": 0.22, "cat": 0.12, "flower": 0.12, "boat": 0.1}
"""The largest turn of a subject in radians; others lean by at most 0.05."""

STANDING = ("tree", "house", "flower", "mountain", "cup", "mushroom")
"""Subjects that may stand on a floor."""


def lay_out(subject: str, rng: np.random.Generator, upright: bool = False) -> Layout:
    """Returns one image's parts: the subject in a random pose, its longer side 74 to 95 % of the image's.

    Args:
      subject: one of `SUBJECTS`.
      rng: chooses the details and the pose.
      upright: whether the subject must not be turned.
    """
    parts = SUBJECT_PAINTERS[subject](rng)
    turn = 0.0 if upright else rng.uniform(-1, 1) * MAX_TURN.get(subject, 0.05)
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    stretch = rng.uniform(0.94, 1.06)
    matrix = np.diag([mirror * stretch, 1.0 / stretch]) @ rotation(turn)
    turned = [part.points @ matrix for part in parts]
    every = np.concatenate(turned)
    low, high = every.min(0), every.max(0)
    fill = rng.uniform(0.74, 0.95)
    scale = fill / float((high - low).max())
    margin = 1.0 - (high - low) * scale
    corner = margin * rng.uniform(0.3, 0.7, 2)
    corner = np.maximum(corner, np.minimum(margin / 2, 0.03))
    placed = tuple(
        replace(part, points=(points - low) * scale + corner, width=part.width * scale)
        for part, points in zip(parts, turned, strict=True)
    )
    bottom = float(corner[1] + (high - low)[1] * scale)
    if subject == "boat":
        return (*placed, Part(Role.FLOOR, _waves(bottom - 0.09 * fill, rng)))
    if subject in STANDING and rng.random() < 0.6:
        return (Part(Role.FLOOR, _floor(bottom - rng.uniform(0.08, 0.14), rng)), *placed)
    return placed


def _floor(height: float, rng: np.random.Generator) -> Points:
    slope = rng.uniform(-0.04, 0.04)
    return polygon((-1.0, height - slope), (2.0, height + slope), (2.0, 2.0), (-1.0, 2.0))


def _waves(height: float, rng: np.random.Generator) -> Points:
    x = np.linspace(-0.2, 1.2, 57)
    y = height + 0.022 * np.sin(2 * np.pi * (x * rng.uniform(3.5, 5.0) + rng.random()))
    return np.concatenate([np.stack([x, y], 1), polygon((2.0, 2.0), (-1.0, 2.0))])
