"""benchmarks/gpu.sh measures every part at a tiny size, and a part that fails does not take the others with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks/gpu.sh"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch) -> None:
    """Imports work as in a script of that folder."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")  # which the script would set


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHON": sys.executable, **variables}
    words = [str(word) for word in (SCRIPT, *arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=590)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gpu")
    done = run("--tiny", "--out", folder / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (folder / "out/gpu.md").read_text()
    assert table in done.stdout
    return {**json.loads((folder / "out/gpu.json").read_text()), "table": table}


@pytest.mark.slow
def test_the_script_measures_every_part(report) -> None:
    measured = [row for row in report["rows"] if row["seconds"]]
    assert all(min(row["seconds"]) > 0 and len(row["seconds"]) == report["rounds"] for row in measured)
    kinds = ("U-Net", "samples", "training step", "self-attention", "2 evaluations, batch 1", "2 evaluations, batch 2")
    for kind in kinds:
        assert any(kind in row["measured"] for row in measured), kind
    lines = [line for line in report["table"].splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(report["rows"]) and len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_work_and_images_are_those_of_a_call(report) -> None:
    rows = {row["measured"]: row for row in report["rows"] if row["seconds"]}
    step = next(row for name, row in rows.items() if name.startswith("U-Net"))
    samples = next(row for name, row in rows.items() if "samples" in name)
    update = next(row for name, row in rows.items() if name.startswith("training"))
    # Two steps of both conditions; half the latents of a guided evaluation, forward and backward about three times.
    assert samples["flops"] == 2 * step["flops"]
    assert 1.3 * step["flops"] < update["flops"] < 1.6 * step["flops"]
    assert samples["images"] == update["images"] == 2 and step["images"] == 0


@pytest.mark.slow
def test_what_cannot_be_measured_here_has_a_reason(report) -> None:
    for row in report["rows"]:
        assert row["seconds"] or row["note"], row
        assert not row["failed"]
    cudnn = [row for row in report["rows"] if "cudnn" in row["program"]]
    assert cudnn and all("needs a GPU" in row["note"] for row in cudnn)


@pytest.mark.slow
def test_without_a_gpu_it_names_the_trial() -> None:
    done = run("--only", "attention")
    assert done.returncode == 2 and "--tiny" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_missing_interpreter_is_one_line() -> None:
    done = run("--tiny", PYTHON="no-such-python")
    assert done.returncode == 2 and "no-such-python" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_part_that_fails_has_its_error_in_a_row(monkeypatch) -> None:
    import gpu
    from gpu_tables.row import HEADER, Row

    def broken(job: Any) -> Any:
        yield Row("first", "program", [0.5])
        raise RuntimeError("out | of memory\nand more")

    monkeypatch.setattr(gpu, "PARTS", {"broken": broken, "good": lambda job: iter([Row("good", "program", [1.0])])})
    rows = list(gpu.measure(SimpleNamespace(), ["broken", "good"], 60))
    assert [row.measured for row in rows] == ["first", "broken", "good"]
    assert [row.failed for row in rows] == [False, True, False]
    assert rows[1].note == "RuntimeError: out / of memory"
    assert all(len(row.cells()) == len(HEADER) for row in rows)


def test_no_part_begins_after_the_limit(monkeypatch) -> None:
    import gpu

    monkeypatch.setattr(gpu, "PARTS", {"part": lambda job: pytest.fail("it began")})
    (row,) = gpu.measure(SimpleNamespace(), ["part"], -1)
    assert "--only part" in row.note and not row.failed


def test_rates_of_a_row() -> None:
    from gpu_tables.row import Row

    row = Row("a", "b", [0.2, 0.1, 0.3], images=4, flops=5e12, peak=1e14, mebibytes=512, ratio=1.5)
    assert row.fraction_of_peak == pytest.approx(0.25)
    assert row.cells() == ["a", "b", "200.00", "150.00 to 250.00", "20.0", "25", "25.0%", "0.50", "1.50", ""]
    assert Row("a", "b", [0.2], flops=5e12).fraction_of_peak is None


def test_programs_that_fail_do_not_stop_the_others() -> None:
    from gpu_tables.row import warmed

    programs, results, reasons = warmed({"good": lambda: lambda: 3, "bad": lambda: lambda: 1 / 0})
    assert list(programs) == ["good"] and results == {"good": 3} and "ZeroDivisionError" in reasons["bad"]
