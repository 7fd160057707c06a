"""Grids as data: stages, each an `rdm` command with its options, and axes, each value of which changes some options::

    {
        "title": "Neighbors at sampling",
        "stages": {
            "reference": {"command": "database build", "": "style_scenes", "split": "test"},
            "results": {"command": "evaluate model", "": "style-scenes", "reference": "{reference}"},
        },
        "axes": {"k": {"1": {"results.neighbors": 1}, "4": {"results.neighbors": 4}}},
    }

A cell is one value of each axis. Stages run in their order, each into a folder of its own; "{reference}" stands for the
folder of the stage "reference" in the same cell. A stage is run once for all cells that agree in the axes that it
depends on: those whose values change its options, or those of a stage that it refers to.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rdm_jax.core.errors import UserError, unknown

TRAIN, EVALUATE, MODULE = "train", "evaluate", "python -m"
COMMAND, PLACES = "command", ""
WORKDIR = "{workdir}"
_REFERENCE = re.compile(r"\{(\w+)\}")
_NOT_IN_NAMES = re.compile(r"[^\w.=,+-]+")

Cell = Mapping[str, str]
"""{axis: the label of its value}."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot of a grid.

    Attributes:
      y: a measure, by the beginning of its name.
      x: an axis whose labels are numbers, or another measure.
      lines: the axis with a line for each of its values; "" for a single line.
    """

    y: str
    x: str
    lines: str = ""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid.

    Attributes:
      title: of the report.
      stages: {name: options of its command}, in the order in which they run; see the module.
      axes: {name: {label: {"STAGE.OPTION": value}}}; None as a value takes the option away, and `{"STAGE": None}` the
        stage.
      measures: the columns of the table, by the beginnings of their names; all where empty.
      plots: of the report.
      mesh: "DATAxFSDP" of dry runs; "" is that of the devices here.
      remarks: for the reader of the report.
    """

    title: str
    stages: Mapping[str, Mapping[str, Any]]
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]]
    measures: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    mesh: str = ""
    remarks: Sequence[str] = ()

    @property
    def cells(self) -> list[Cell]:
        """All cells, the last axis fastest."""
        values = [[(axis, label) for label in labels] for axis, labels in self.axes.items()]
        return [dict(cell) for cell in itertools.product(*values)]


@dataclasses.dataclass(frozen=True)
class Job:
    """A stage of one cell or of several.

    Attributes:
      stage: its name.
      name: of its folder within that of the stage, made of the axes that it depends on.
      command: of `rdm`, as "evaluate model", or "python -m MODULE".
      settings: options of the command. Folders of other jobs start with `WORKDIR`.
    """

    stage: str
    name: str
    command: str
    settings: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Its folder within the working directory."""
        return f"{self.stage}/{self.name}"


def read_grid(values: Mapping[str, Any]) -> Grid:
    """Returns the grid that a config describes.

    Raises:
      UserError: a key is unknown or missing, an axis changes a stage that there is not, a stage refers to none before
        it, or two labels of an axis would name the same folder.
    """
    fields = {field.name for field in dataclasses.fields(Grid)}
    for key in values:
        if key not in fields:
            raise unknown("key of a grid", str(key), fields)
    for key in ("title", "stages", "axes"):
        if not values.get(key):
            raise UserError(f"the grid has no {key}; see configs/ablations for examples")
    plots = tuple(Plot(**plot) for plot in values.get("plots", ()))
    grid = Grid(**{**values, "plots": plots})
    for name, stage in grid.stages.items():
        if not stage.get(COMMAND):
            raise UserError(f"stage {name!r} has no command; give a verb of rdm, as 'evaluate model'")
    for axis, labels in grid.axes.items():
        if len({_NOT_IN_NAMES.sub("-", label) for label in labels}) < len(labels):
            raise UserError(f"labels of axis {axis!r} differ in signs alone that no folder's name has; rename them")
        for stage in (key.partition(".")[0] for changes in labels.values() for key in changes):
            if stage not in grid.stages:
                raise unknown(f"stage in axis {axis!r}", stage, grid.stages)
    for cell in grid.cells:
        jobs_of_cell(grid, cell)
    return grid


def jobs_of(grid: Grid) -> list[Job]:
    """Returns the jobs of all cells, each once, in an order in which they can run."""
    jobs = {job.folder: job for cell in grid.cells for job in jobs_of_cell(grid, cell).values()}
    return list(jobs.values())


def jobs_of_cell(grid: Grid, cell: Cell) -> dict[str, Job]:
    """Returns {stage: job} of one cell.

    Raises:
      UserError: a stage refers to another that does not come before it in this cell.
    """
    stages = _changed(grid, cell)
    jobs: dict[str, Job] = {}
    depends: dict[str, set[str]] = {}
    for name, options in stages.items():
        references = {found for value in options.values() for found in _references(value)} - {WORKDIR[1:-1]}
        for reference in references:
            if reference not in jobs:
                raise UserError(f"stage {name!r} of cell {words(cell)} refers to {{{reference}}}, no stage before it")
        depends[name] = _axes_of(grid, name).union(*(depends[reference] for reference in references))
        of_name = {axis: label for axis, label in cell.items() if axis in depends[name]}
        settings = {key: _resolved(value, jobs) for key, value in options.items() if key != COMMAND}
        jobs[name] = Job(name, words(of_name) or "all", str(options[COMMAND]), settings)
    return jobs


def words(cell: Cell) -> str:
    """Returns a cell as a name of a folder: "k=4,database=general"."""
    return ",".join(f"{axis}={_NOT_IN_NAMES.sub('-', label)}" for axis, label in cell.items())


def _changed(grid: Grid, cell: Cell) -> dict[str, dict[str, Any]]:
    """Returns the options of each stage that a cell has."""
    stages = {name: dict(options) for name, options in grid.stages.items()}
    dropped = set()
    for axis, label in cell.items():
        for key, value in grid.axes[axis][label].items():
            stage, dot, option = key.partition(".")
            if not dot:
                dropped.add(stage)
            elif value is None:
                stages[stage].pop(option, None)
            else:
                stages[stage][option] = value
    return {name: options for name, options in stages.items() if name not in dropped}


def _axes_of(grid: Grid, stage: str) -> set[str]:
    """Returns the axes of which any value changes a stage."""
    return {
        axis
        for axis, labels in grid.axes.items()
        if any(key.partition(".")[0] == stage for changes in labels.values() for key in changes)
    }


def _references(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [found for one in value for found in _references(one)]
    return _REFERENCE.findall(value) if isinstance(value, str) else []


def _resolved(value: Any, jobs: Mapping[str, Job]) -> Any:
    """Returns a value with the folder of each stage that it refers to."""
    if isinstance(value, (list, tuple)):
        return [_resolved(one, jobs) for one in value]
    if not isinstance(value, str):
        return value
    return _REFERENCE.sub(lambda found: f"{WORKDIR}/{jobs[found[1]].folder}" if found[1] in jobs else found[0], value)
