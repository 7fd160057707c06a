"""The tutorials run from their first cell to their last, and show what the stored outputs show."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.helpers.pages import ROOT

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")  # comes with nbclient

TUTORIALS = sorted(ROOT.glob("docs/tutorials/*.ipynb"))
SECONDS = 600  # of a cell, on a busy machine; all of a notebook takes less than a minute on two idle cores


def each() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", TUTORIALS, ids=lambda file: file.stem)


def kinds(cell) -> set[str]:
    """Returns the kinds of a cell's outputs: printed text, or the types of what is shown."""
    return {kind for output in cell.outputs for kind in output.get("data", [output.output_type])}


@each()
def test_the_outputs_are_stored_and_small(file: Path) -> None:
    cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it from a fresh kernel"
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert file.stat().st_size < 600_000


@pytest.mark.slow
@each()
def test_the_tutorial_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel, and the `rdm` that it calls, import this tree.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")  # of tqdm, where Jupyter's widgets are missing
    stored, ran = (nbformat.read(file, as_version=4) for _ in range(2))
    place = tmp_path / "work"
    place.mkdir()
    resources = {"metadata": {"path": str(place)}}
    nbclient.NotebookClient(ran, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    for before, after in zip(stored.cells, ran.cells, strict=True):
        if before.cell_type == "code":
            assert kinds(after) == kinds(before), before.source
