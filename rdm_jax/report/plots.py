"""Plots by matplotlib, which an extra brings: curves over steps, and one metric against another."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rdm_jax.report.blocks import File

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # pyright: ignore[reportMissingImports]

MISSING = (
    "No plots: matplotlib is not installed (pip install 'rdm_jax[plots]'); the tables and the CSV files are complete"
)

Points = Mapping[str, Sequence[tuple[float | int, float]]]


def available() -> bool:
    """Returns whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def curves(name: str, title: str, x: str, y: str, lines: Points) -> list[File]:
    """Returns a plot of one line for each name, where matplotlib is installed, and its CSV.

    Args:
      name: of the files, without a suffix.
      title: of the plot.
      x: the horizontal axis.
      y: the vertical one.
      lines: {name: points} in the order of x.
    """

    def add(axes: Axes) -> None:
        for label, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker="." if len(points) == 1 else "", label=label)
        axes.legend()

    return _files(name, title, x, y, add, _table(x, lines))


def scatter(name: str, title: str, x: str, y: str, points: Mapping[str, tuple[float, float]]) -> list[File]:
    """Returns a plot of one labelled point for each name, where matplotlib is installed, and its CSV; see `curves`."""

    def add(axes: Axes) -> None:
        for label, point in points.items():
            axes.plot(*point, marker="o")
            axes.annotate(label, point, textcoords="offset points", xytext=(6, 4))
        axes.margins(0.2)

    rows = [["", x, y], *([label, *map(repr, point)] for label, point in points.items())]
    return _files(name, title, x, y, add, rows)


def _files(name: str, title: str, x: str, y: str, add: Any, rows: Sequence[Sequence[str]]) -> list[File]:
    """Returns the plot and the CSV of the same numbers."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    table = File(f"{name}.csv", written.getvalue().encode(), f"{title}, as CSV")
    return [File(f"{name}.png", _png(title, x, y, add), title), table] if available() else [table]


def _png(title: str, x: str, y: str, add: Any) -> bytes:
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.4)
    add(axes)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100, metadata={"Software": None})
    return data.getvalue()


def _table(x: str, lines: Points) -> list[list[str]]:
    """Returns the rows of a CSV: a column for each line, empty where it has no point."""
    columns = {label: dict(points) for label, points in lines.items()}
    places = sorted({place for column in columns.values() for place in column})
    rows = [
        [repr(place), *(repr(column[place]) if place in column else "" for column in columns.values())]
        for place in places
    ]
    return [[x, *columns], *rows]
