"""Reports of grids: the right number in the right row, with its interval, in the table and in the CSV of plots."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from rdm_jax.ablation.grid import read_grid
from rdm_jax.ablation.results import cell_results, report
from rdm_jax.core.errors import UserError
from rdm_jax.report.blocks import File, Items, Table


def row(title: str, value: float, **others: Any) -> dict[str, Any]:
    return {
        "title": title,
        "value": value,
        "low": None,
        "high": None,
        "std": None,
        "network": "net",
        "stand_in": True,
        **others,
    }


def results(k: int) -> dict[str, Any]:
    precision = row("precision in features of the classifier of 'net'", k / 10, low=k / 10 - 0.1, high=k / 10 + 0.1)
    return {
        "metrics": [
            precision,
            row("recall in features of the classifier of 'net'", 1 - k / 10),
            row("kernel distance in features of the classifier of 'net'", k, std=0.5),
            row("cosine to the nearest image of general by the clip of 'net'", 0.25),
        ]
    }


def make(**changes: Any) -> Any:
    stages = {"results": {"command": "evaluate model", "": "m"}}
    axes = {"s": {"a": {}, "b": {}}, "k": {"1": {"results.k": 1}, "2": {"results.k": 2}}}
    grid = read_grid({"title": "T", "stages": stages, "axes": axes, **changes})
    return grid, [cell_results(cell, {"results": results(int(cell["k"]))}) for cell in grid.cells]


def test_the_table_has_a_row_for_each_cell_and_short_names() -> None:
    blocks = report(*make())
    (table,) = (block for block in blocks if isinstance(block, Table))
    assert table.head == ["s", "k", "precision", "recall", "kernel distance", "cosine to the nearest image"]
    assert table.rows[1] == ["a", "2", "0.2 (0.1 to 0.3)", "0.8", "2 ± 0.5", "0.25"]
    assert [cells[:2] for cells in table.rows] == [["a", "1"], ["a", "2"], ["b", "1"], ["b", "2"]]
    (items,) = (block for block in blocks if isinstance(block, Items))
    assert items.lines == ["Features of net, which stands in for a published network"]


def test_a_plot_over_an_axis_has_a_line_for_each_value_of_another() -> None:
    files = [block for block in report(*make(plots=[{"x": "k", "y": "prec", "lines": "s"}])) if isinstance(block, File)]
    (table,) = (file for file in files if file.name.endswith(".csv"))
    rows = list(csv.reader(io.StringIO(table.data.decode())))
    assert rows[0] == ["line", "label", "k", "precision", "low", "high"]
    assert [[line, float(x), float(y)] for line, _, x, y, *_ in rows[1:]] == [
        ["s a", 1, 0.1], ["s a", 2, 0.2], ["s b", 1, 0.1], ["s b", 2, 0.2]
    ]  # fmt: skip
    assert float(rows[2][4]) == pytest.approx(0.1) and float(rows[2][5]) == pytest.approx(0.3)


def test_a_plot_of_two_measures_labels_its_points_by_the_other_axes() -> None:
    plots = [{"x": "recall", "y": "precision", "lines": "s"}]
    blocks = report(*make(plots=plots))
    (table,) = (block for block in blocks if isinstance(block, File) and block.name.endswith(".csv"))
    rows = list(csv.reader(io.StringIO(table.data.decode())))
    assert rows[1][:2] == ["s a", "k 1"] and [float(value) for value in rows[1][2:4]] == [0.9, 0.1]


def test_several_measuring_stages_have_their_names_before_the_measures() -> None:
    one = cell_results({"k": "1"}, {"first": results(1), "second": results(2)})
    assert one.measures["first: precision"].value == 0.1 and one.measures["second: precision"].value == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": ["fid"]}, "unknown measure of the grid 'fid'"),
        ({"plots": [{"x": "s", "y": "recall"}]}, "label 'a' of axis 's' is no number"),
    ],
)
def test_what_no_cell_has_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        report(*make(**changes))


def test_results_without_rows_are_refused() -> None:
    with pytest.raises(UserError, match="the results of stage 'guided' have no rows"):
        cell_results({}, {"guided": {"methods": []}})
