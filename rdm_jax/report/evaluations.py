"""Evaluations side by side: a number stands beside another only where both are defined alike."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rdm_jax.core import numbers
from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.set_metrics import METRICS
from rdm_jax.report import plots
from rdm_jax.report.blocks import Block, File, Heading, Items, Paragraph, Table, parse
from rdm_jax.report.settings import ABSENT, differing
from rdm_jax.report.sources import Evaluation

MEASURED = ("metrics", "seconds", "remarks", "arms")  # of results.json: what was measured, not how
PARETO = (("recall", "precision"), ("density", "coverage"), ("CLIP-score", "FID"))  # (x, y), beginnings of titles
LEGEND = (
    "95 % intervals in parentheses; ± is the standard deviation over subsets or parts. A metric that evaluations "
    "define in different ways has a numbered row for each definition: numbers of different rows are not comparable."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric, and the evaluations that define it alike.

    Attributes:
      title: of the metric, numbered where there are several definitions.
      better: "lower" or "higher".
      definition: what the number depends on beside the images.
      cells: {evaluation: record of the number}.
    """

    title: str
    better: str
    definition: Mapping[str, Any]
    cells: Mapping[str, Mapping[str, Any]]


def report_evaluations(evaluations: Sequence[Evaluation]) -> list[Block]:
    """Returns the blocks of evaluations: numbers, definitions that differ, settings that differ, and their own tables.

    Raises:
      UserError: results are damaged.
    """
    if not evaluations:
        return []
    measured = [one for one in evaluations if isinstance(one.results.get("metrics"), list)]
    blocks: list[Block] = [Heading(2, "Evaluations")]
    if measured:
        blocks += _comparison(measured)
    if len(evaluations) > 1:
        blocks += _settings(evaluations)
    for one in evaluations:
        if one not in measured:
            blocks += [Heading(3, one.name), *parse(one.tables, below=3)]
    return blocks


def comparison_rows(evaluations: Sequence[Evaluation]) -> list[Row]:
    """Returns a row for each metric and definition; one metric with several definitions has several rows.

    Raises:
      UserError: results are damaged.
    """
    groups: dict[str, dict[str, tuple[Mapping[str, Any], dict[str, Mapping[str, Any]]]]] = {}
    for one in evaluations:
        for metric in _metrics(one):
            definition = definition_of(one.results, metric)
            key = json.dumps(definition, sort_keys=True)
            cells = groups.setdefault(metric["title"], {}).setdefault(key, (definition, {}))[1]
            cells[one.name] = metric
    rows = []
    for title, definitions in groups.items():
        for number, (definition, cells) in enumerate(definitions.values(), start=1):
            numbered = f"{title} [{number}]" if len(definitions) > 1 else title
            rows.append(Row(numbered, next(iter(cells.values()))["better"], definition, cells))
    return rows


def definition_of(results: Mapping[str, Any], metric: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a number depends on beside the images themselves: two that differ in it are not comparable.

    Args:
      results: of the evaluation.
      metric: the number's record.
    """
    known = METRICS.get(str(metric.get("metric")))
    needs = {"reference": known is None or known.reference, "training": known is None or known.training}
    parameters = dict(metric["parameters"])
    few = bool(parameters.pop("too_few_images", ()))  # it names the sets
    networks = [one for one in results.get("features", ()) if one.get("name") == metric.get("network")]
    return {
        "parameters": {**parameters, "too few images": few},
        "feature network": networks,
        "resize": results.get("arguments", {}).get("resize"),
        "images": _set_record(results.get("images"), ("images", "formats")),
        **{
            role: _set_record(results.get(role), ("images", "formats", "sha256"))
            for role, used in needs.items()
            if used
        },
    }


def _set_record(record: Mapping[str, Any] | None, keys: Sequence[str]) -> dict[str, Any] | None:
    return None if not record else {key: record.get(key) for key in keys}


def _metrics(evaluation: Evaluation) -> Sequence[Mapping[str, Any]]:
    rows, needed = evaluation.results["metrics"], {"title", "value", "better", "low", "high", "std", "parameters"}
    if not all(isinstance(row, dict) and needed <= row.keys() for row in rows):
        raise UserError(f"the results of {evaluation.name} are damaged: a metric lacks a field; measure again")
    return rows


def _comparison(evaluations: Sequence[Evaluation]) -> list[Block]:
    rows, names = comparison_rows(evaluations), [one.name for one in evaluations]
    cells = [[row.title, *(_cell(row.cells.get(name)) for name in names), row.better] for row in rows]
    blocks: list[Block] = [Table(["metric", *names, "better"], cells), Paragraph(LEGEND)]
    differences = _definitions(rows)
    if differences:
        blocks += [Heading(3, "Definitions that differ"), Items(differences)]
    remarks = [f"{one.name}: {remark}" for one in evaluations for remark in one.results.get("remarks", ())]
    remarks += [f"{one.name}: {text}" for one in evaluations for text in _stand_ins(one)]
    return [*blocks, *([Items(remarks)] if remarks else []), *_pareto(rows)]


def _stand_ins(evaluation: Evaluation) -> list[str]:
    networks = sorted({row["network"] for row in _metrics(evaluation) if row.get("stand_in")})
    return [f"{name} stands in for a published feature network" for name in networks]


def _definitions(rows: Sequence[Row]) -> list[str]:
    """Returns a line for each setting in which the rows of one metric differ."""
    lines = []
    for title, several in itertools.groupby(rows, key=lambda row: row.title.rsplit(" [", 1)[0]):
        group = list(several)
        for name, values in differing([row.definition for row in group]):
            numbered = ", ".join(f"[{number}] {value}" for number, value in enumerate(values, start=1))
            lines.append(f"{title}, {name}: {numbered}")
    return lines


def _settings(evaluations: Sequence[Evaluation]) -> list[Block]:
    records = [{key: value for key, value in one.results.items() if key not in MEASURED} for one in evaluations]
    rows = [[name, *values] for name, values in differing(records)]
    title = Heading(3, "Settings that differ")
    return [title, Table(["setting", *(one.name for one in evaluations)], rows) if rows else Paragraph("None.")]


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return ABSENT
    value = numbers.plain(metric["value"])
    if metric["low"] is not None:
        return f"{value} ({numbers.plain(metric['low'])} to {numbers.plain(metric['high'])})"
    return value if metric["std"] is None else f"{value} ± {numbers.plain(metric['std'])}"


def _pareto(rows: Sequence[Row]) -> list[File]:
    """Returns a plot of each pair of metrics that two or more evaluations have with one definition each."""
    files: list[File] = []
    for x, y in PARETO:
        pairs = [(a, b) for a in rows for b in rows if a.title.startswith(x) and b.title.startswith(y)]
        for number, (a, b) in enumerate(pairs, start=1):
            both = [name for name in a.cells if name in b.cells]
            if len(both) > 1:
                points = {name: (float(a.cells[name]["value"]), float(b.cells[name]["value"])) for name in both}
                files += plots.scatter(f"{y}-{x}-{number}".lower(), f"{y} against {x}", a.title, b.title, points)
    return files
