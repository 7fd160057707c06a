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
Traces = Mapping[str, Sequence[tuple[str, float, float, float | None, float | None]]]


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


def traces(name: str, title: str, x: str, y: str, lines: Traces) -> list[File]:
    """Returns a plot of lines through labelled points, where matplotlib is installed, and its CSV; see `curves`.

    Args:
      name: of the files, without a suffix.
      title: of the plot.
      x: the horizontal axis.
      y: the vertical one.
      lines: {name: (label, x, y, low, high) of its points}; low and high are None where y has no interval.
    """

    def add(axes: Axes) -> None:
        """Adds the lines."""
        for line, points in lines.items():
            across, up = [point[1] for point in points], [point[2] for point in points]
            bars = [[value - (low if low is not None else value) for _, _, value, low, _ in points]]
            bars.append([(high if high is not None else value) - value for _, _, value, _, high in points])
            axes.errorbar(across, up, yerr=bars, marker="o", capsize=3, label=line)
            for label, at, value, *_ in points:
                axes.annotate(label, (at, value), textcoords="offset points", xytext=(6, 4))
        axes.margins(0.1)
        axes.legend()

    rows = [["line", "label", x, y, "low", "high"]]
    for line, points in lines.items():
        rows += [[line, label, *("" if one is None else repr(one) for one in values)] for label, *values in points]
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
