"""Grids: which stages cells share, what their folders are called, and how wrong ones are refused."""

from __future__ import annotations

from typing import Any

import pytest

from rdm_jax.ablation.grid import jobs_of, jobs_of_cell, read_grid
from rdm_jax.core.errors import UserError

STAGES: dict[str, dict[str, Any]] = {
    "data": {"command": "database build", "": "images"},
    "run": {"command": "train", "config": "mine.py", "data.neighbors": "{data}"},
    "model": {"command": "export", "": "{run}"},
    "results": {"command": "evaluate model", "": "{model}", "reference": "{data}", "with": ["a({model})"]},
}
AXES: dict[str, dict[str, dict[str, Any]]] = {
    "lr": {"low": {"run.lr": 0.1}, "default": {}},
    "k": {"1": {"results.neighbors": 1}, "2": {"results.neighbors": 2}, "4": {"results.neighbors": 4}},
}


def grid(**changes: Any) -> Any:
    return read_grid({"title": "A grid", "stages": STAGES, "axes": AXES, **changes})


def test_cells_share_the_stages_that_do_not_depend_on_what_they_differ_in() -> None:
    folders = [job.folder for job in jobs_of(grid())]
    assert len(grid().cells) == 6
    assert [folder for folder in folders if not folder.startswith("results")] == [
        "data/all", "run/lr=low", "model/lr=low", "run/lr=default", "model/lr=default"
    ]  # fmt: skip
    assert sorted(folder for folder in folders if folder.startswith("results")) == [
        f"results/lr={lr},k={k}" for lr in ("default", "low") for k in (1, 2, 4)
    ]


def test_a_stage_refers_to_the_folders_of_its_own_cell() -> None:
    jobs = jobs_of_cell(grid(), {"lr": "low", "k": "2"})
    assert jobs["results"].settings == {
        "": "{workdir}/model/lr=low",
        "reference": "{workdir}/data/all",
        "with": ["a({workdir}/model/lr=low)"],
        "neighbors": 2,
    }
    assert jobs["run"].settings["lr"] == 0.1
    assert "lr" not in jobs_of_cell(grid(), {"lr": "default", "k": "1"})["run"].settings


def test_a_value_may_take_an_option_or_a_stage_away() -> None:
    axes = {"data": {"with": {}, "without": {"data": None, "run.data.neighbors": None, "results.reference": "real"}}}
    jobs = jobs_of_cell(grid(axes=axes), {"data": "without"})
    assert list(jobs) == ["run", "model", "results"] and "data.neighbors" not in jobs["run"].settings
    assert jobs["results"].settings["reference"] == "real"


def test_the_option_without_a_name_may_be_changed() -> None:
    axes = {"data": {"a": {"data.": "a"}, "b": {"data.": "b"}}}
    assert [job.settings[""] for job in jobs_of(grid(axes=axes)) if job.stage == "data"] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key of a grid 'titel'; did you mean 'title'"),
        ({"axes": {}}, "the grid has no axes"),
        ({"axes": {"k": {"1": {"result.k": 1}}}}, "unknown stage in axis 'k' 'result'; did you mean 'results'"),
        ({"axes": {"k": {"a b": {"run.x": 1}, "a/b": {"run.x": 2}}}}, "labels of axis 'k' differ in signs alone"),
        ({"stages": {"results": {"": "model"}}}, "stage 'results' has no command"),
        ({"axes": {"data": {"none": {"data": None}}}}, "of cell data=none refers to {data}, no stage before it"),
    ],
)
def test_wrong_grids_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("{", r"\{")):
        grid(**changes)
