"""Training runs side by side: settings that differ, last values, and a curve of each metric."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rdm_jax.core import numbers
from rdm_jax.core.file_names import file_names
from rdm_jax.report import plots
from rdm_jax.report.blocks import Block, Heading, Paragraph, Table
from rdm_jax.report.settings import ABSENT, differing
from rdm_jax.report.sources import TrainingRun

MOST_CURVES = 40


def report_runs(runs: Sequence[TrainingRun]) -> list[Block]:
    """Returns the blocks of training runs."""
    if not runs:
        return []
    names = [run.name for run in runs]
    metrics = _metrics(runs)
    blocks: list[Block] = [Heading(2, "Training runs"), Table(["", *names], _values(runs, metrics))]
    blocks.append(Paragraph("The last value of each metric, with its step, and the least one where that is another."))
    if len(runs) > 1:
        rows = [[name, *values] for name, values in differing([run.config for run in runs])]
        blocks.append(Heading(3, "Settings that differ"))
        blocks.append(Table(["setting", *names], rows) if rows else Paragraph("None."))
    blocks.append(Heading(3, "Curves"))
    if len(metrics) > MOST_CURVES:
        blocks.append(Paragraph(f"The first {MOST_CURVES} of {len(metrics)} metrics; the table has all of them."))
    for metric, file in zip(metrics[:MOST_CURVES], file_names(f"curve {one}" for one in metrics), strict=False):
        lines = {run.name: _finite(run.metrics[metric]) for run in runs if metric in run.metrics}
        lines = {name: points for name, points in lines.items() if points}
        if lines:
            blocks += plots.curves(file, metric, "step", metric, lines)
    return blocks


def _metrics(runs: Sequence[TrainingRun]) -> list[str]:
    """Returns the names of all metrics, losses first."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    return sorted(names, key=lambda name: ("loss" not in name, "eval" not in name))


def _values(runs: Sequence[TrainingRun], metrics: Sequence[str]) -> list[list[str]]:
    rows = [["steps of the config", *(str(run.config.get("steps", ABSENT)) for run in runs)]]
    for metric in metrics:
        rows.append([metric, *(_last(run.metrics.get(metric, ())) for run in runs)])
    return rows


def _last(points: Sequence[tuple[int, float]]) -> str:
    if not points:
        return ABSENT
    (step, value), least = points[-1], min(_finite(points), key=lambda point: point[1], default=points[-1])
    last = f"{numbers.plain(value)} at {step}"
    return last if least[0] == step else f"{last}; least {numbers.plain(least[1])} at {least[0]}"


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]
