"""The plot of benchmarks/retrieval.py: the time of one query and the memory of a search over the number of rows."""

from __future__ import annotations

import importlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import indexes
import numpy as np
from indexes import CONTENDERS, MB

OURS = "rdm_jax"  # the names of our indexes begin so
COLORS = ("#d1495b", "#2e6f95", "#8d99ae", "#6b705c", "#b08968", "#7b6d8d", "#3a7d44", "#c08497")


def plot(work: Path, kind: str, out: Path) -> None:
    """Plots the time of one query and the memory over the number of rows, of all measurements in a folder."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    pyplot.rcParams.update({"svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    panels: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        ("one query, ms", lambda result: 1e3 * result["single"]),
        ("memory while searching, MB", lambda result: result["peaks"]["RssAnon"] / MB),
    ]
    for axis, (title, value) in zip(axes, panels, strict=True):
        _panel(axis, title, _curves(work, kind, value))
    figure.savefig(out, dpi=160)
    pyplot.close(figure)


def _curves(work: Path, kind: str, value: Callable[[dict[str, Any]], float]) -> dict[str, list[tuple[int, float]]]:
    curves = {}
    for key in CONTENDERS:
        results = [json.loads(path.read_text()) for path in work.glob(f"rows-*/{key}/measured-{kind}.json")]
        if results:
            curves[key] = sorted((result["rows"], value(result)) for result in results)
    return curves


def _panel(axis: Any, title: str, curves: dict[str, list[tuple[int, float]]]) -> None:
    """Plots curves with their names at their ends, on logarithmic axes."""
    axis.set(xscale="log", yscale="log", xlabel=f"rows, at a recall of {indexes.TARGET:g}")
    axis.yaxis.set_major_locator(importlib.import_module("matplotlib.ticker").LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1e3:g} k")
    axis.yaxis.set_minor_formatter(lambda value, _: "")
    axis.set_title(title, loc="left", fontweight="bold")
    axis.grid(which="major", color="#e6e6e6", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    colors = dict(zip(CONTENDERS, COLORS, strict=True))
    for key, points in curves.items():
        ours = CONTENDERS[key].name.startswith(OURS)
        style = {"linewidth": 2.4 if ours else 1.4, "markersize": 5 if ours else 3.5, "zorder": 3 if ours else 2}
        axis.plot(*zip(*points, strict=True), marker="o", color=colors[key], **style)
    low, high = (float(np.log10(limit)) for limit in axis.get_ylim())
    ends = sorted(curves, key=lambda key: curves[key][-1][1])
    places = _apart([float(np.log10(curves[key][-1][1])) for key in ends], 0.055 * (high - low), low, high)
    furthest = max(points[-1][0] for points in curves.values())
    for key, place in zip(ends, places, strict=True):
        name, end = CONTENDERS[key].name, curves[key][-1]
        line = {"arrowstyle": "-", "color": colors[key], "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4}
        weight = "bold" if name.startswith(OURS) else "normal"
        text = {"color": colors[key], "weight": weight, "va": "center", "annotation_clip": False}
        axis.annotate(name, end, (furthest * 1.6, 10**place), arrowprops={**line, "relpos": (0, 0.5)}, **text)


def _apart(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Returns ascending places in [low, high], moved as little as possible so that they are `gap` apart.

    Places that are too close are spread around their mean; groups that overlap are merged.
    """
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while (
            len(groups) > 1 and _spread(groups[-2], gap, low, high)[-1] + gap > _spread(groups[-1], gap, low, high)[0]
        ):
            last = groups.pop()
            groups[-1] += last
    return [place for group in groups for place in _spread(group, gap, low, high)]


def _spread(group: list[float], gap: float, low: float, high: float) -> list[float]:
    length = gap * (len(group) - 1)
    first = max(low, min(statistics.mean(group) - length / 2, high - length))
    return [first + gap * i for i in range(len(group))]
