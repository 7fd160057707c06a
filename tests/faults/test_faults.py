"""Every write, rename and flush of an operation fails in turn: what was complete stays, and a rerun gives the same.

`RDM_FAULTS=all` injects a fault at every point; otherwise at POINTS of them, spread evenly. The closing lines of pytest
say how many.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.faults.operations import OPERATIONS, Home, Operation
from tests.faults.shim import FAULTS, FULL, GONE, GROWING, KILL, Shim

POINTS = 6
# After an error in a thread of its own, Orbax waits for minutes at the end of the process: its checkpoints are killed
# here, and tests/training/test_survival.py fills their disk.
CASES = [(name, fault) for name in OPERATIONS for fault in FAULTS if name != "checkpoint" or fault == KILL]
KEPT = "kept.txt"


@dataclasses.dataclass(frozen=True)
class Recording:
    """An undisturbed run.

    Attributes:
      place: its folder.
      points: the points in it.
    """

    place: Path
    points: list[str]


@pytest.fixture(scope="module")
def recorded(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recording]:
    """A function that runs an operation undisturbed, once, and returns what it did."""

    @functools.cache
    def record(name: str) -> Recording:
        operation, place = OPERATIONS[name], tmp_path_factory.mktemp(name)
        operation.prepare(home, place)
        assert operation.run(home, shutil.copytree(place, place.parent / f"{place.name}-first")) == 0  # compiles
        with Shim(place) as shim:
            assert operation.run(home, place) == 0
        operation.check(place)
        assert any("rename" in point or "replace" in point or "link" in point for point in shim.points), shim.points
        return Recording(place, shim.points)

    return record


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_fault_at_any_point_costs_nothing_that_was_complete(
    name: str,
    fault: str,
    home: Home,
    recorded: Callable[[str], Recording],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    operation, expected = OPERATIONS[name], recorded(name)
    before = tmp_path / "before"
    before.mkdir()
    operation.prepare(home, before)
    (before / KEPT).write_bytes(b"another's")
    candidates = [i for i, point in enumerate(expected.points) if fault != FULL or point.split()[0] in GROWING]
    injected = 0
    for at in _chosen(candidates):
        place = shutil.copytree(before, tmp_path / f"{at}", symlinks=True)
        copy = tmp_path / f"{at}-killed"
        with Shim(place, fault, at, copy if fault == KILL else place / "out") as shim:
            status = operation.run(home, place)
        if copy.exists():
            shutil.rmtree(place)
            copy.rename(place)
        message = capsys.readouterr().err
        where = f"{fault} at {at}, {expected.points[at]}: status {status}, {message}"
        injected += shim.injected
        assert (place / KEPT).read_bytes() == b"another's", where
        operation.check(place)
        if fault != KILL and shim.injected:
            _check_message(status, message, place, where)
        if status == 0 and fault == FULL:
            assert operation.same(place, expected.place), where
        if fault == GONE:
            operation.prepare(home, place)
        assert operation.run(home, place) == 0 or _refused(operation, place, capsys), f"again after {where}"
        operation.check(place)
        assert operation.same(place, expected.place), f"again after {where}"
        shutil.rmtree(place)
    record_property("faults", (injected, len(candidates)))


def _chosen(candidates: list[int]) -> list[int]:
    if os.environ.get("RDM_FAULTS") == "all" or len(candidates) <= POINTS:
        return candidates
    return [candidates[i] for i in np.linspace(0, len(candidates) - 1, POINTS).round().astype(int)]


def _check_message(status: int, message: str, place: Path, where: str) -> None:
    """Checks that a failure is one line that names the place and what to do next."""
    errors = [line for line in message.splitlines() if line.startswith("rdm: error:")]
    assert "Traceback" not in message and "internal error" not in message, where
    assert (status, len(errors)) in ((0, 0), (2, 1)), where
    assert all(str(place) in line and ";" in line for line in errors), where
    assert not status or message.splitlines()[-1] == errors[0], where


def _refused(operation: Operation, place: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    """Returns whether a rerun was refused as the results are there already: the process died as it cleaned up."""
    return "exists already" in capsys.readouterr().err and (place / "out" / "model").exists()
