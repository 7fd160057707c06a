"""The results of a grid: a table with a row for each cell, and plots of its measures."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rdm_jax.ablation.grid import Cell, Grid, Plot
from rdm_jax.core import numbers
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.report import plots
from rdm_jax.report.blocks import Block, File, Heading, Items, Paragraph, Table

LEGEND = "95 % intervals in parentheses; ± is the standard deviation over subsets or parts."
_NETWORK = re.compile(r" (?:in features of|by) (?:the |CLIP|Inception).*?(?=, of two images|$)")
_COMPARED = (("cosine to the nearest image of", "cosine to the nearest image"), ("images nearer than", "copies"))
ATTRIBUTES = ("style", "subject", "colour")


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number of a cell.

    Attributes:
      value: the number.
      low: of its interval; None without.
      high: of the same.
      std: over subsets; None without.
    """

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None

    @staticmethod
    def of(record: Mapping[str, Any]) -> Measure:
        """Returns a number as `rdm evaluate` records it."""
        value = next(record[key] for key in ("value", "rate", "mean") if key in record)
        return Measure(float(value), record.get("low"), record.get("high"), record.get("std"))

    @property
    def text(self) -> str:
        """The number as a cell of a table has it."""
        value = numbers.plain(self.value)
        if self.low is not None and self.high is not None:
            return f"{value} ({numbers.plain(self.low)} to {numbers.plain(self.high)})"
        return value if self.std is None else f"{value} ± {numbers.plain(self.std)}"


@dataclasses.dataclass(frozen=True)
class CellResults:
    """The measures of one cell.

    Attributes:
      cell: which one.
      measures: by name.
      networks: that they are in features of, and whether each stands in for a published one.
    """

    cell: Cell
    measures: Mapping[str, Measure]
    networks: Mapping[str, bool]


def cell_results(cell: Cell, several: Mapping[str, Mapping[str, Any]]) -> CellResults:
    """Returns the measures of a cell.

    Args:
      cell: which one.
      several: the content of results.json by the stage that wrote it; with several, their names precede the measures.

    Raises:
      UserError: the results are of a measure that has no rows for a table.
    """
    measures, networks = {}, {}
    for stage, results in several.items():
        prefix = f"{stage}: " if len(several) > 1 else ""
        rows = results.get("metrics")
        if isinstance(rows, list):
            found = {_short(row["title"]): Measure.of(row) for row in rows}
            networks |= {row["network"]: bool(row.get("stand_in")) for row in rows if row.get("network")}
        elif "arms" in results and "every_pair" in results:
            found = _style_swap(results)
        else:
            raise UserError(f"the results of stage {stage!r} have no rows; a grid measures by model or style-swap")
        measures |= {f"{prefix}{name}": measure for name, measure in found.items()}
    return CellResults(cell, measures, networks)


def _style_swap(results: Mapping[str, Any]) -> dict[str, Measure]:
    """Returns the proportions of each arm, and how the first one compares with real images."""
    found = {}
    for arm in results["arms"].values():
        suffix = f", {arm['title']}" if len(results["arms"]) > 1 else ""
        counted = {name: arm[name] for name in ATTRIBUTES if arm[name]["rate"] is not None}
        found |= {f"{name.replace('colour', 'color')}{suffix}": Measure.of(one) for name, one in counted.items()}
    found["Fréchet distance"] = Measure(float(results["frechet"]["samples"]))
    if results["diversity"]["samples"]["feature"] is not None:
        found["diversity"] = Measure(float(results["diversity"]["samples"]["feature"]))
    found["nearer than real images"] = Measure.of(results["copies"]["nearer_than_real"])
    return found


def _short(title: str) -> str:
    """Returns the title of a metric without its network and without the set that copies are searched in."""
    title = _NETWORK.sub("", title)
    return next((short for start, short in _COMPARED if title.startswith(start)), title)


def report(grid: Grid, cells: Sequence[CellResults]) -> list[Block]:
    """Returns the blocks of a grid's report.

    Raises:
      UserError: a column or a plot is of a measure that no cell has.
    """
    names = list(dict.fromkeys(name for one in cells for name in one.measures))
    columns = [_measure(prefix, names) for prefix in grid.measures] or names
    head = [*grid.axes, *columns]
    rows = [
        [*one.cell.values(), *(one.measures[name].text if name in one.measures else "-" for name in columns)]
        for one in cells
    ]
    networks = {name: stand_in for one in cells for name, stand_in in one.networks.items()}
    lines = [
        f"Features of {name}" + (", which stands in for a published network" if stand_in else "")
        for name, stand_in in sorted(networks.items())
    ]
    blocks: list[Block] = [Heading(1, grid.title), Table(head, rows), Paragraph(LEGEND)]
    blocks += [Items([*grid.remarks, *lines])] if grid.remarks or lines else []
    for number, plot in enumerate(grid.plots, start=1):
        blocks += _plot(f"plot-{number}", grid, plot, cells, names)
    return blocks


def _measure(prefix: str, names: Sequence[str]) -> str:
    """Returns the measure whose name begins so."""
    found = next((name for name in names if name.startswith(prefix)), None)
    if found is None:
        raise unknown("measure of the grid", prefix, names)
    return found


def _plot(name: str, grid: Grid, plot: Plot, cells: Sequence[CellResults], names: Sequence[str]) -> list[File]:
    """Returns a plot and its numbers; cells without one of its measures are omitted."""
    y, by_axis = _measure(plot.y, names), plot.x in grid.axes
    x = plot.x if by_axis else _measure(plot.x, names)
    lines: dict[str, list[tuple[str, float, Measure]]] = {}
    for one in cells:
        if y not in one.measures or not (by_axis or x in one.measures):
            continue
        others = [f"{axis} {label}" for axis, label in one.cell.items() if axis not in (plot.lines, plot.x)]
        line = f"{plot.lines} {one.cell[plot.lines]}" if plot.lines else "all cells"
        at = _number(one.cell[x], x) if by_axis else one.measures[x].value
        label = "" if by_axis else ", ".join(others)
        lines.setdefault(line, []).append((label, at, one.measures[y]))
    traces = {line: [(label, at, m.value, m.low, m.high) for label, at, m in points] for line, points in lines.items()}
    return plots.traces(name, f"{y} against {x}", x, y, traces)


def _number(label: str, axis: str) -> float:
    try:
        return float(label)
    except ValueError as error:
        raise UserError(f"label {label!r} of axis {axis!r} is no number, and a plot is over it") from error
