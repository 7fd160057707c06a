"""Small plots of curves, drawn by PIL: panels side by side, a legend, axes with round numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from rdm_jax.core.fonts import Font
from rdm_jax.core.sheets import BACKGROUND, INK

COLORS = ((34, 78, 206), (214, 34, 38), (44, 152, 48), (242, 118, 12), (122, 44, 168), (0, 150, 155), (150, 90, 40))
GRID = (216, 216, 212)
WIDTH, HEIGHT = 560, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 66, 60
FONT = 14


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line through points.

    Attributes:
      name: in the legend.
      points: (x, y) in their order.
      notes: one beside each point.
    """

    name: str
    points: Sequence[tuple[float, float]]
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
      title: over it.
      x: what the horizontal axis is.
      y: what the vertical one is.
      curves: drawn in it, each in its own color.
      level: a dashed horizontal line, and its name.
    """

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    level: tuple[float, str] | None = None


def plot(panels: Sequence[Panel]) -> UInt8[np.ndarray, "h w 3"]:
    """Draws panels side by side; those without a curve are omitted.

    Raises:
      ValueError: no panel has a curve.
    """
    shown = [panel for panel in panels if any(curve.points for curve in panel.curves)]
    if not shown:
        raise ValueError("there is no curve to draw")
    sheet = Image.new("RGB", (WIDTH * len(shown), HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, panel in enumerate(shown):
        _panel(draw, panel, number * WIDTH)
    return np.array(sheet)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers from below `low` to above `high`, at most `most` + 1 steps apart."""
    span = (high - low) or max(abs(low), 1.0)  # a single value has an axis too
    unit = 10.0 ** math.floor(math.log10(span / most))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= most)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _panel(draw: ImageDraw.ImageDraw, panel: Panel, left: int) -> None:
    """Draws one panel from a left edge on."""
    font = Font(FONT)
    points = [point for curve in panel.curves for point in curve.points]
    level = [panel.level[0]] if panel.level else []
    across = ticks(min(x for x, _ in points), max(x for x, _ in points))
    up = ticks(min([*(y for _, y in points), *level]), max([*(y for _, y in points), *level]))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        """Returns the position of a point on the sheet."""
        right = (x - across[0]) / (across[-1] - across[0])
        above = (y - up[0]) / (up[-1] - up[0])
        return left + LEFT + width * right, TOP + height * (1 - above)

    Font(FONT + 2).write(draw, (left + 12, 12), panel.title, INK)
    for x in across:
        draw.line([place(x, up[0]), place(x, up[-1])], fill=GRID)
        font.write(draw, (place(x, up[0])[0], HEIGHT - BOTTOM + 6), f"{x:g}", INK, "ma")
    for y in up:
        draw.line([place(across[0], y), place(across[-1], y)], fill=GRID)
        font.write(draw, (left + LEFT - 6, place(across[0], y)[1]), f"{y:g}", INK, "rm")
    font.write(draw, (left + LEFT + width // 2, HEIGHT - 26), panel.x, INK, "ma")
    font.write(draw, (left + 12, TOP - 28), panel.y, INK)
    if panel.level:
        _dashed(draw, place(across[0], panel.level[0]), place(across[-1], panel.level[0]))
        font.write(draw, place(across[0], panel.level[0]), f" {panel.level[1]}", INK, "ls")
    for number, curve in enumerate(panel.curves):
        _curve(draw, [place(*point) for point in curve.points], curve.notes, COLORS[number % len(COLORS)])
        # At the bottom, where the curves of distances to real images seldom are.
        under = HEIGHT - BOTTOM - 26 - 18 * (len(panel.curves) - 1 - number)
        color = COLORS[number % len(COLORS)]
        font.write(draw, (left + WIDTH - RIGHT - 6, under), curve.name, color, "rs")


def _curve(
    draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], notes: Sequence[str], color: tuple[int, int, int]
) -> None:
    """Draws a line with its points and their notes."""
    if len(points) > 1:
        draw.line(list(points), fill=color, width=2)
    for x, y in points:
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=color)
    for (x, y), note in zip(points, notes, strict=False):
        Font(FONT - 3).write(draw, (x + 5, y - 4), note, color, "ls")


def _dashed(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws a dashed horizontal line."""
    for x in np.arange(start[0], end[0], 8.0).tolist():
        draw.line([(x, start[1]), (min(x + 4, end[0]), end[1])], fill=INK)
