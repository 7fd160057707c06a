"""Two trainings in one folder: the second one is refused, or the first one stops."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.training import claim
from rdm_jax.training.claim import HOLDER, LOCK, claimed
from rdm_jax.training.workdir import Workdir


def test_a_second_run_is_refused_and_the_message_names_the_first(tmp_path: Path) -> None:
    with claimed(Workdir(tmp_path)) as held:
        for _ in range(2):
            message = rf"another process is writing to .* \(process {os.getpid()} on .*; wait"
            with pytest.raises(UserError, match=message), claimed(Workdir(tmp_path)):
                pass
        held.check()
    assert list(tmp_path.iterdir()) == []
    with claimed(Workdir(tmp_path)):
        assert {path.name for path in tmp_path.iterdir()} == {HOLDER, LOCK}


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from rdm_jax.training.claim import claimed\n"
        "from rdm_jax.training.workdir import Workdir\n"
        f"with claimed(Workdir({str(tmp_path)!r})):\n"
        "    os._exit(3)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
    assert (tmp_path / HOLDER).exists()
    with claimed(Workdir(tmp_path)):
        pass


def test_an_error_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), claimed(Workdir(tmp_path)):
        raise ValueError("mine")
    with claimed(Workdir(tmp_path)):
        pass


def test_the_other_processes_of_a_run_claim_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(Workdir(tmp_path)):
        monkeypatch.setattr(claim, "is_first", lambda: False)
        with claimed(Workdir(tmp_path)) as other:
            other.check()


def test_in_object_storage_a_run_excludes_its_machine_and_stops_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = "memory://runs/claimed"
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "here"))
    with claimed(Workdir(address)) as first:
        first.check()
        with pytest.raises(UserError, match="another process is writing to memory"), claimed(Workdir(address)):
            pass
        monkeypatch.setenv("RDM_CACHE", str(tmp_path / "another machine"))
        with claimed(Workdir(address)) as second:
            assert "has not ended; if it still trains, it stops" in caplog.text
            second.check()
            with pytest.raises(UserError, match=r"another process has begun .*, and this one stops"):
                first.check()
        with pytest.raises(UserError, match="another process has begun"):  # the other one has ended
            first.check()
