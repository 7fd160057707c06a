"""What the folders of a report hold: a training run, the results of an evaluation, generated images, or several."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.core import paths, text
from rdm_jax.core.errors import UserError
from rdm_jax.training.metrics import FIGURES
from rdm_jax.training.workdir import CONFIG, METRICS

RESULTS, TABLES, RUN = "results.json", "results.md", "run.json"  # of `rdm evaluate` and `rdm sample`
SHEETS = ("grid.png", "neighbors.png")  # of a run of `rdm sample`; a run of several databases has one in each folder
_STEP = re.compile(r"(.+)-(\d+)\.png")


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run of `rdm train`.

    Attributes:
      name: in the report.
      config: its configuration.
      metrics: {name: [(step, value)]} in the order of the steps.
      figures: the newest image of each kind, with its step.
    """

    name: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Sequence[tuple[int, float]]]
    figures: Sequence[tuple[Path, int]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of `rdm evaluate`.

    Attributes:
      name: in the report.
      results: the content of results.json.
      tables: the Markdown beside it, "" without.
      images: beside it.
    """

    name: str
    results: Mapping[str, Any]
    tables: str
    images: Sequence[Path]


@dataclasses.dataclass(frozen=True)
class GeneratedRun:
    """The sheets of a run of `rdm sample`.

    Attributes:
      name: in the report.
      record: the content of run.json.
      sheets: its grid, and its sheets of neighbors.
    """

    name: str
    record: Mapping[str, Any]
    sheets: Sequence[Path]


Source = TrainingRun | Evaluation | GeneratedRun


def read_sources(places: Sequence[str]) -> list[Source]:
    """Returns what folders hold, in their order.

    Raises:
      UserError: a folder is missing or given twice, holds nothing to report, or a file in it is damaged.
    """
    folders = [_folder(place) for place in places]
    repeated = next((one for one in folders if folders.count(one) > 1), None)
    if repeated is not None:
        raise UserError(f"{repeated} is given twice; give each folder once")
    found: list[Source] = []
    for folder, name in zip(folders, short_names(folders), strict=True):
        of_folder = _read(folder, name)
        if not of_folder:
            raise UserError(
                f"{folder} has nothing to report: no {METRICS} of `rdm train`, no {RESULTS} of `rdm evaluate` and "
                f"no {RUN} of `rdm sample`; give the folder that holds one"
            )
        found += of_folder
    return found


def short_names(folders: Sequence[Path]) -> list[str]:
    """Returns the last parts of each path, as many as tell them all apart."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return list(map(str, folders))


def _folder(place: str) -> Path:
    if paths.is_remote(place):
        raise UserError(f"{place} is an address, and a report reads folders of this machine; copy it here first")
    folder = paths.local(place)
    if not folder.is_dir():
        raise UserError(f"there is no folder {place}; give the folders of runs and evaluations")
    return folder.resolve()


def _read(folder: Path, name: str) -> list[Source]:
    found: list[Source] = []
    if (folder / METRICS).is_file():
        config = _json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
        found.append(TrainingRun(name, config, _metrics(folder / METRICS), _newest(folder / FIGURES)))
    if (folder / RESULTS).is_file():
        tables = text.read_given(folder / TABLES, "tables") if (folder / TABLES).is_file() else ""
        images = sorted(folder.glob("*.png"))
        found.append(Evaluation(name, _json(folder / RESULTS), tables, images))
    for run, of in ((folder, name), (folder / "samples", f"{name}/samples")):  # `rdm evaluate model` has the second
        if (run / RUN).is_file():
            sheets = [run / sheet for sheet in SHEETS if (run / sheet).is_file()]
            found.append(GeneratedRun(of, _json(run / RUN), [*sheets, *sorted(run.glob("*/neighbors.png"))]))
    return found


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = text.read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); leave its folder out, or write it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; leave its folder out, or write it again")
    return value


def _metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns the values of each metric; a line that a kill cut short is left out."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in text.lines(text.read_given(path, "metrics")):
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for name, value in values.items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append((step, float(value)))
    return found


def _newest(folder: Path) -> list[tuple[Path, int]]:
    """Returns the newest figure of each kind, with its step."""
    newest: dict[str, tuple[Path, int]] = {}
    for path in sorted(folder.glob("*.png")):
        match = _STEP.fullmatch(path.name)
        if match and int(match[2]) >= newest.get(match[1], (path, -1))[1]:
            newest[match[1]] = path, int(match[2])
    return list(newest.values())
