"""docs/architecture.md is of today: its stations, its numbers, its tables and its diagram."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from docs.images import architecture
from tests.helpers import flows, tiny_diffusion
from tests.helpers.import_graph import FLOOR, PACKAGE, folder_graph

PAGE = (Path(__file__).parents[1] / "docs/architecture.md").read_text(encoding="utf-8")
SECTIONS = {"prompt": "## A prompt", "batch": "## A batch", "row": "## A row of a database"}


def section(title: str) -> str:
    """Returns what stands under a title."""
    return PAGE.split(f"{title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """Returns the code in the first cells of a table."""
    return [name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)]


@pytest.mark.slow
def test_the_diagram_is_of_today() -> None:
    made = architecture.svg()
    assert architecture.FILE.read_text(encoding="utf-8") == made, "run python -m docs.images.architecture"
    assert made.count("<g>") == len(folder_graph().keys() - architecture.HIDDEN)


def test_an_edge_that_others_imply_is_left_out() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert architecture.edges(graph) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}
    circle = {"a": {"b", "c"}, "b": {"a", "c"}, "c": set()}
    assert architecture.edges(circle) == circle


def test_every_folder_has_a_line() -> None:
    assert set(first_cells(PAGE.split("## Contracts")[0])) == set(FLOOR) - {"__main__"}


def test_the_files_and_tables_of_the_costs_exist() -> None:
    rows = re.findall(r"^\| .+? \| .+? \| (.+?) \|$", section("## What adding a part costs"), re.MULTILINE)
    lines = [re.findall(r"`([A-Z_]+)`, `([\w/.]+)`", row) for row in rows]
    named = [one for found in lines for one in found]
    assert len(named) >= 11
    for table, file in named:
        module = importlib.import_module(
            f"{PACKAGE.name}.{file.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")
        )
        assert hasattr(module, table), f"{file} has no {table}"


def test_the_files_of_the_contracts_exist() -> None:
    rows = re.findall(r"^\| .+? \| .+? \| (`.+?) \|$", section("## Contracts"), re.MULTILINE)
    files = [file for row in rows for file in re.findall(r"`([\w/.]+)`", row)]
    assert len(files) >= 12 and [file for file in files if not (PACKAGE / file).is_file()] == []


@pytest.mark.slow
def test_the_stations_are_passed(tmp_path: Path) -> None:
    tiny_diffusion.write(tmp_path)
    for name, follow in flows.FLOWS.items():
        text, modules = section(SECTIONS[name]), follow(tmp_path)
        stations = {f"{PACKAGE.name}.{station}" for station in first_cells(text)}
        assert len(stations) >= 7 and stations <= set(modules), f"{name}: {sorted(stations - set(modules))}"
        (number,) = re.findall(r"about (\d+) modules", text)
        assert len(modules) == pytest.approx(int(number), rel=0.15), f"{name}: {len(modules)} modules"
