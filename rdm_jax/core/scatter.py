"""Scatter plots of images, with a query and its neighbors marked."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from rdm_jax.core.fonts import Font
from rdm_jax.core.sheets import BACKGROUND, INK

DOT = (176, 178, 184)
MARK = (214, 62, 46)
MARGIN = 28


def scatter(
    points: Float[np.ndarray, "n 2"],
    images: UInt8[np.ndarray, "n h w 3"],
    *,
    title: str = "",
    query: Float[np.ndarray, " 2"] | None = None,
    neighbors: list[int] | None = None,
    size: tuple[int, int] = (1200, 900),
    thumbnail: int = 40,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws images at their points, as many as fit without overlap, and a dot for each of the others.

    Args:
      points: their coordinates, on any scale.
      images: one for each point.
      title: one line above the map.
      query: a point that is drawn as a ring, with lines to its neighbors.
      neighbors: the indices of the points that are its neighbors, best first; drawn larger and on top.
      size: (width, height) of the map in pixels.
      thumbnail: the side length of an image on the map in pixels.
    """
    neighbors = neighbors or []
    top = MARGIN + (34 if title else 0)
    every = points if query is None else np.concatenate([points, query[None]])
    low, span = every.min(axis=0), np.maximum(np.ptp(every, axis=0), 1e-9)
    edge = thumbnail
    room = np.array([size[0] - 2 * MARGIN - 2 * edge, size[1] - top - MARGIN - 2 * edge])
    places = ((every - low) / span * [1, -1] + [0, 1]) * room + [MARGIN + edge, top + edge]
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    Font(20).write(draw, (MARGIN, MARGIN - 8), title, INK)
    for x, y in places[: len(points)]:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=DOT)
    for number in _apart(places[: len(points)], thumbnail, neighbors):
        _paste(sheet, images[number], places[number], thumbnail)
    if query is not None:
        _mark(sheet, draw, places[-1], places[neighbors], images[neighbors], thumbnail)
    return np.array(sheet)


def _apart(places: np.ndarray, distance: int, beside: list[int]) -> list[int]:
    """Returns indices of places, chosen at random, of which no two overlap; those of `beside` are excluded."""
    cells: dict[tuple[int, int], list[np.ndarray]] = {}
    chosen = []
    for number in np.random.default_rng(0).permutation(len(places)).tolist():
        place = places[number]
        column, row = (int(axis // distance) for axis in place)
        around = [(column + i, row + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        near = [other for cell in around for other in cells.get(cell, [])]
        if number not in beside and all(np.abs(place - other).max() >= distance for other in near):
            cells.setdefault((column, row), []).append(place)
            chosen.append(number)
    return chosen


def _mark(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    query: np.ndarray,
    places: np.ndarray,
    images: np.ndarray,
    thumbnail: int,
) -> None:
    for place in places:
        draw.line((*query, *place), fill=MARK, width=2)
    for place, image in reversed(list(zip(places, images, strict=True))):
        side = int(1.5 * thumbnail)
        _paste(sheet, image, place, side)
        half = side / 2
        box = (place[0] - half, place[1] - half, place[0] + half, place[1] + half)
        draw.rectangle(box, outline=MARK, width=3)
    draw.ellipse((query[0] - 13, query[1] - 13, query[0] + 13, query[1] + 13), outline=BACKGROUND, fill=MARK, width=4)


def _paste(sheet: Image.Image, image: np.ndarray, place: np.ndarray, side: int) -> None:
    small = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
    sheet.paste(small, (round(place[0] - side / 2), round(place[1] - side / 2)))
