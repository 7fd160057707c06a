"""metrics.jsonl and TensorBoard: after a kill, and on a full disk."""

import errno
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from rdm_jax.core.errors import UserError
from rdm_jax.training.board import Board
from rdm_jax.training.metrics import Log
from rdm_jax.training.workdir import METRICS, Workdir

CONFIG = ConfigDict({"steps": 10, "wandb": ""})


def log_in(folder: Path, first: int = 1) -> Log:
    return Log(Workdir(folder), CONFIG, first, lambda *_: None)


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / METRICS).read_bytes().splitlines()]


@pytest.mark.parametrize(
    "end",
    [b'{"step": 3, "lo', b'{"step": 3', b"{", b"\0\0\0\0", b'{"st\xff', b"[3]\n", b'{"loss": 1}\n', b"3\n", b"\n"],
)
def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path, end: bytes) -> None:
    (tmp_path / METRICS).write_bytes(b'{"step": 1}\n{"step": 2}\n' + end)
    log = log_in(tmp_path, first=3)
    log.metrics(3, {"loss": 1.0})
    log.close()
    assert steps_in(tmp_path) == [1, 2, 3]


def test_a_last_line_without_its_end_is_kept_whole(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_bytes(b'{"step": 1}\r\n{"step": 2}')
    log = log_in(tmp_path, first=3)
    log.metrics(3, {"loss": 1.0})
    log.close()
    assert steps_in(tmp_path) == [1, 2, 3]


def test_a_full_disk_is_one_line_that_names_the_metrics(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    (tmp_path / METRICS).unlink()
    (tmp_path / METRICS).symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write to .*metrics\.jsonl: No space left on device; make room"):
        log.metrics(1, {"loss": 1.0})
    log.close()


def test_a_full_disk_leaves_no_half_of_a_figure_or_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    workdir, log = Workdir(tmp_path), log_in(tmp_path)
    workdir.write_json("config.json", {"a": 1})
    monkeypatch.setattr("rdm_jax.core.files.os.fsync", full)
    monkeypatch.setattr(Board, "flush", full)
    with pytest.raises(UserError, match=r"cannot write to .*figures/x-00000001\.png: No space"):
        log.figure(1, "x", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(UserError, match=r"cannot write to .*config\.json: No space"):
        workdir.write_json("config.json", {"a": 2})
    with pytest.raises(UserError, match=r"cannot write to .*tensorboard: No space"):
        log.metrics(1, {"loss": 1.0})
    assert workdir.read_json("config.json") == {"a": 1} and list((tmp_path / "figures").iterdir()) == []
    log.close()


def test_tensorboard_reads_scalars_and_images(tmp_path: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    board = Board(tmp_path / "board", 4)
    board.scalar(5, "loss", 0.5)
    board.image(6, "samples", np.zeros((4, 6, 3), np.uint8))
    board.close()
    (file,) = (tmp_path / "board").iterdir()
    data, events = file.read_bytes(), []
    while data:  # records of TFRecord: length, checksum, content, checksum
        length = int.from_bytes(data[:8], "little")
        events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    version, start, scalar, image = events
    assert version.file_version and start.step == 4 and start.session_log.status == event_pb2.SessionLog.START
    assert scalar.step == 5 and scalar.summary.value[0].tag == "loss" and scalar.summary.value[0].simple_value == 0.5
    assert image.step == 6 and (image.summary.value[0].image.height, image.summary.value[0].image.width) == (4, 6)


def test_a_damaged_record_of_a_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": ')
    with pytest.raises(UserError, match=r"config\.json is damaged .*; remove it"):
        Workdir(tmp_path).read_json("config.json")
    (tmp_path / "config.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"config\.json is damaged .*not UTF-8"):
        Workdir(tmp_path).read_json("config.json")


def test_places_are_those_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    assert Workdir("~/run").local == tmp_path / "run" and Path(Workdir("~/run").checkpoints).parent == tmp_path / "run"
    assert str(Workdir("memory://runs/one/")) == "memory://runs/one"
    assert Workdir("memory://runs/one/").run_id == Workdir("memory://runs/one").run_id


def test_a_run_is_sent_to_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, where its records stay in the workdir."""
    pytest.importorskip("wandb", reason="Weights & Biases needs the extra: pip install 'rdm_jax[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = ConfigDict({"steps": 10, "wandb": "project", "name": "run"})
    log = Log(Workdir(tmp_path), config, 1, lambda *_: None)
    log.metrics(1, {"loss": 0.5})
    log.close()
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"loss" in record.read_bytes()
    assert steps_in(tmp_path) == [1]


def test_without_weights_and_biases_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb=project needs Weights & Biases; pip install rdm_jax\[wandb\]"):
        Log(Workdir(tmp_path), ConfigDict({"steps": 10, "wandb": "project", "name": "run"}), 1, lambda *_: None)
