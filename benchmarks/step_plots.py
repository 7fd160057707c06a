"""The plot and the sheet of benchmarks/few_steps.py."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core import sheets
from rdm_jax.evaluation.arms import GENERAL, Cell

TEACHER, STUDENT = "DDIM, trailing", "student, progressive"
COLUMNS = ((TEACHER, 50), (TEACHER, 4), (STUDENT, 8), (STUDENT, 4), (STUDENT, 2), (STUDENT, 1))


def plot(runs: Sequence[Mapping[str, Any]], real: float) -> bytes | None:
    """Returns a plot over the number of evaluations as a PNG file; None without matplotlib.

    Args:
      runs: the measures of each run.
      real: the Frechet distance of real images.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    from matplotlib.ticker import ScalarFormatter  # pyright: ignore[reportMissingImports]

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = ("Fréchet distance to real images", "requested style, %", "distance to 50 steps, levels of 255")
    for axes, title in zip(panels, titles, strict=True):
        axes.set(title=title, xlabel="evaluations of the network", xscale="log")
        axes.set_xticks([1, 2, 4, 8, 16, 32, 100])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
        axes.grid(alpha=0.4)
    panels[0].axhline(real, color="gray", linestyle=":", label="real images")
    for curve in dict.fromkeys(row["curve"] for row in runs):
        of_curve = [row for row in runs if row["curve"] == curve]
        x = [row["evaluations"] for row in of_curve]
        for axes, name, factor in zip(panels, ("frechet", "style", "pixels"), (1, 100, 1), strict=True):
            middle = [factor * _value(row[name]) for row in of_curve]
            low = [max(0.0, m - factor * row[name]["low"]) for m, row in zip(middle, of_curve, strict=True)]
            high = [max(0.0, factor * row[name]["high"] - m) for m, row in zip(middle, of_curve, strict=True)]
            axes.errorbar(x, middle, yerr=[low, high], marker="o", capsize=3, label=curve)
    panels[0].legend()
    panels[0].set_yscale("log")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=90, metadata={"Software": None})
    return data.getvalue()


def _value(measure: Mapping[str, Any]) -> float:
    """Returns the value of a measure, whatever its name."""
    return next(float(measure[name]) for name in ("value", "rate", "mean") if name in measure)


def grid(runs: Sequence[tuple[Any, UInt8[np.ndarray, "n h w 3"]]], cells: Sequence[Cell]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a sheet of the same prompts and noise (rows) by the runs of `COLUMNS` that there are (columns).

    Args:
      runs: each with its images.
      cells: of the images; `rows_of` chooses those that are shown.
    """
    found = {(run.curve, run.steps): (run, images) for run, images in runs}
    columns = [found[key] for key in COLUMNS if key in found]
    rows = rows_of(cells)
    images = np.stack([np.stack([images[row] for _, images in columns]) for row in rows])
    names = [f"{'student' if run.curve == STUDENT else 'teacher'}, {run.evaluations}" for run, _ in columns]
    return sheets.grid(images, [f"{cells[row].prompt}, {cells[row].style}" for row in rows], names, zoom=2)


def rows_of(cells: Sequence[Cell]) -> list[int]:
    """Returns one cell for each style with a database of its own, each with another subject."""
    rows: dict[str, int] = {}
    for row, cell in enumerate(cells):
        shown = {cells[other].subject for other in rows.values()}
        if cell.database != GENERAL and cell.style not in rows and cell.subject not in shown:
            rows[cell.style] = row
    return list(rows.values())
