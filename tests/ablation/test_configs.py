"""Every shipped grid at both scales: its commands are understood, and its trainings have valid settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdm_jax.ablation.grid import jobs_of, read_grid
from rdm_jax.cli import ablate
from rdm_jax.cli.main import main
from rdm_jax.training.config import ABLATIONS, config_values, shipped_configs

GRIDS = sorted(shipped_configs(ABLATIONS))


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["", ":paper"])
@pytest.mark.parametrize("name", GRIDS)
def test_a_dry_run_understands_every_command(
    name: str, scale: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablate, "cost", lambda config, mesh: f"{mesh}, {config.steps}")
    assert main(["ablate", name + scale, "--workdir", "out", "--dry-run"]) == 0, capsys.readouterr().err
    jobs = jobs_of(read_grid(config_values(name + scale)))
    lines = capsys.readouterr().out.split("\n")
    assert sum(line.startswith(("rdm ", "python -m ")) for line in lines) == len(jobs) >= 2
    mesh = "32x8" if scale else "1x1"
    assert sum(line.startswith(f"  {mesh}, ") for line in lines) == sum(job.command == "train" for job in jobs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", GRIDS)
def test_a_docstring_shows_both_commands_and_another_scale_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "configs" / f"{name}.py").read_text()
    assert f"rdm ablate {name} --workdir" in text and f"rdm ablate {name}:paper --workdir" in text
    assert main(["ablate", f"{name}:huge", "--workdir", "x", "--dry-run"]) == 2
    assert "unknown scale 'huge' (known: paper)" in capsys.readouterr().err


def test_grids_are_listed_and_no_runs() -> None:
    assert len(GRIDS) >= 14 and not set(GRIDS) & set(shipped_configs())


@pytest.mark.slow
def test_the_paper_scale_has_a_prediction(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ablate", "ablations/unit_tokens:paper", "--workdir", str(tmp_path / "x"), "--dry-run"]) == 0
    found = capsys.readouterr().out
    assert "400.9 M parameters" in found and "1,000,000 steps of 1280 take at least v5e" in found
