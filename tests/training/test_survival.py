"""What a run survives: kills, damaged checkpoints, full disks, lost processes; and several processes as one."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.training import watch as watching
from rdm_jax.training.checkpoints import Checkpoints, restore_arrays, sums, unwritten
from rdm_jax.training.state import State
from rdm_jax.training.watch import Watch
from rdm_jax.training.workdir import Workdir
from tests.helpers import tiny_run

ROOT = Path(__file__).parents[2]


def state_of(step, value=1.0):
    params = {"net": {"kernel": jnp.full((4, 3), value), "bias": jnp.arange(3.0) * value}}
    return State(jnp.asarray(step, jnp.int32), params, jax.tree.map(jnp.copy, params), (jnp.zeros(()),), {})


def saved(tmp_path, steps, keep=2, keep_every=0):
    checkpoints = Checkpoints(Workdir(tmp_path), keep, keep_every)
    for step in steps:
        checkpoints.save(state_of(step, float(step)), {"next": step}, {"seed": 3})
    checkpoints.close()
    return Checkpoints(Workdir(tmp_path), keep, keep_every)


def test_the_newest_checkpoints_stay_and_those_of_every_multiple(tmp_path):
    assert saved(tmp_path, range(1, 8), keep=2, keep_every=3).steps == [7, 6, 3]


def test_what_is_restored_is_what_was_saved_with_its_place_in_the_data_and_its_record(tmp_path):
    state, data, record = saved(tmp_path, [2, 5]).restore(state_of(0, 0.0))
    assert int(state.step) == 5 and data == {"next": 5} and record == {"seed": 3}
    np.testing.assert_array_equal(state.params["net"]["kernel"], np.full((4, 3), 5.0))
    step, arrays, record = restore_arrays(Workdir(tmp_path))
    assert step == 5 and record == {"seed": 3}
    np.testing.assert_array_equal(arrays["ema"]["net"]["bias"], 5.0 * np.arange(3.0))


def test_info_tells_step_and_hashes_that_change_with_the_arrays(tmp_path, capsys):
    config = {"steps": 9, "task": "clip", "name": "one", "data": {"source": "folder", "split": ""}}
    found = {}
    for name, steps in (("a", [2, 5]), ("b", [5]), ("c", [4])):
        saved(tmp_path / name, steps)
        Workdir(tmp_path / name).write_json("config.json", config)
        assert main(["info", str(tmp_path / name), "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert found["a"]["step"] == 5 and found["a"]["made_from"] == {"seed": 3} and found["a"]["parameters"] == 15
    assert found["a"]["sha256"] == found["b"]["sha256"] and found["a"]["config"] == config
    assert found["a"]["sha256"]["params"] != found["c"]["sha256"]["params"]
    assert main(["info", str(tmp_path / "a")]) == 0 and "sha256 of opt_state" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "none")]) == 2 and "there is no folder" in capsys.readouterr().err


def damage(checkpoint):
    for file in (checkpoint / "state").rglob("*"):
        if file.is_file() and "ocdbt" not in file.name:
            file.write_bytes(b"")


def test_a_damaged_newest_checkpoint_is_skipped_by_info_and_export_too(tmp_path, caplog):
    saved(tmp_path, [2, 5])
    damage(tmp_path / "checkpoints/5")
    with caplog.at_level(logging.WARNING, "rdm_jax"):
        assert restore_arrays(Workdir(tmp_path))[0] == 2
    assert "checkpoint 5 cannot be read and is skipped" in caplog.text
    damage(tmp_path / "checkpoints/2")
    with pytest.raises(UserError, match=r"none of the checkpoints 5, 2 in .* can be read"):
        restore_arrays(Workdir(tmp_path))


def test_one_flipped_bit_changes_the_sums_and_a_mesh_does_not():
    state = state_of(1)
    flipped = np.array(state.params["net"]["kernel"])
    flipped.view(np.uint32)[2, 1] ^= 1 << 7
    other = State(1, {"net": {**state.params["net"], "kernel": flipped}}, state.ema, state.opt_state, {})
    before, after = sums(state), sums(jax.tree.map(jnp.asarray, other))
    assert [name for name in before if before[name] != after[name]] == [".params['net']['kernel']"]


def test_a_checkpoint_whose_arrays_differ_from_what_was_saved_is_skipped(tmp_path, monkeypatch, caplog):
    checkpoints = saved(tmp_path, [1])
    true = sums(state_of(2, 2.0))
    monkeypatch.setattr("rdm_jax.training.checkpoints.sums", lambda state: {**true, ".step": 0})
    checkpoints.save(state_of(2, 2.0), {"next": 2}, {})
    checkpoints.close()
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING, "rdm_jax"):
        state, _, _ = Checkpoints(Workdir(tmp_path), 2).restore(state_of(0, 0.0))
    assert int(state.step) == 1
    assert "checkpoint 2 cannot be read and is skipped: .step differs from what was saved" in caplog.text


def test_a_disk_without_room_for_a_checkpoint_is_refused_before_the_run(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [1])
    monkeypatch.setattr(Workdir, "free_bytes", lambda self: 10)
    with pytest.raises(UserError, match=r"has 0\.00 GB left, and a checkpoint takes .* choose another --workdir"):
        checkpoints.check_space(state_of(0))


def test_a_disk_that_fills_up_costs_no_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [4])

    def full(*_, **__):
        raise ValueError("writing failed") from OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._saver, "save_checkpointables_async", full)
    with pytest.raises(
        UserError, match=r"cannot write a checkpoint to .*checkpoints: No space .* \(step 4 is kept\); make room"
    ):
        checkpoints.save(state_of(5), {}, {})
    assert saved(tmp_path, []).steps == [4]
    assert not unwritten(ValueError("another")) and unwritten(OSError(122, "Disk quota exceeded"))
    tensorstore = ValueError("INTERNAL: Failed to write x [OS error 27: EFBIG File too large]")
    assert unwritten(tensorstore) == "EFBIG File too large"


def test_a_process_that_falls_silent_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    left = []
    monkeypatch.setattr(watching.os, "_exit", left.append)
    workdir = Workdir(tmp_path)
    workdir.write("processes/1", b"7 elsewhere 4242")
    workdir.write("processes/2", b"finished")
    with caplog.at_level(logging.ERROR, "rdm_jax"), Watch(workdir, 0.4):
        deadline = time.monotonic() + 10
        while not left and time.monotonic() < deadline:
            time.sleep(0.05)
    assert left and set(left) == {watching.GONE}
    assert "process 1 (host elsewhere, pid 4242) of 3 has been silent" in caplog.text
    assert "process 2" not in caplog.text and (tmp_path / "processes/0").read_text() == "finished"


def test_a_process_that_beats_is_not_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    workdir = Workdir(tmp_path)
    watch = Watch(workdir, 0.2)
    for beat in range(6):
        workdir.write("processes/1", f"{beat} here 1".encode())
        assert watch.missing() == []
        time.sleep(0.06)
    time.sleep(0.25)
    assert watch.missing() == [1]


def test_a_run_in_object_storage_keeps_its_files_there(monkeypatch, tmp_path):
    monkeypatch.setenv("RDM_CACHE", str(tmp_path))
    workdir = Workdir("memory://runs/one")
    workdir.write_json("config.json", {"a": 1})
    workdir.append("metrics.jsonl", {"step": 1})
    again = Workdir("memory://runs/one")
    for file in again.local.iterdir():
        file.unlink()  # another machine
    again.append("metrics.jsonl", {"step": 2})
    assert again.read_json("config.json") == {"a": 1} and again.read_json("nothing.json") is None
    assert [json.loads(line)["step"] for line in (again.read("metrics.jsonl") or b"").splitlines()] == [1, 2]
    assert again.free_bytes() is None and again.checkpoints == "memory://runs/one/checkpoints"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Returns a folder of 24 images."""
    return tiny_run.write_images(tmp_path_factory.mktemp("survival") / "images")


def command(images, workdir, *more):
    settings = {"figures_every": 0, "optimizer.warmup": 1}
    return [*tiny_run.command(images, images.parent / "cache", workdir, settings), *more]


def environment():
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}


@contextlib.contextmanager
def begin(*command, **variables):
    """Yields a command that was started, whose lines are read as it goes; it has five minutes, its children too."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env={**environment(), **variables}, **options) as process:
        late = threading.Timer(300, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            yield process
        finally:
            late.cancel()


RDM = str(Path(sys.executable).parent / "rdm")


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_one_that_was_not(images, tmp_path):
    with begin(RDM, *command(images, tmp_path / "killed", "--config.steps=12")) as killed:
        for line in killed.stdout:
            if "step 5/12" in line:  # step 4 is saved or being saved
                killed.send_signal(signal.SIGKILL)
                break
    for name, resumes in (("straight", False), ("killed", True)):
        with begin(RDM, *command(images, tmp_path / name, "--config.steps=12")) as whole:
            output = whole.stdout.read()
        assert whole.returncode == 0 and ("resumed at step" in output) == resumes, output
    one, other = (restore_arrays(Workdir(tmp_path / name)) for name in ("straight", "killed"))
    assert one[0] == other[0] == 12
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert losses(tmp_path / "straight") == losses(tmp_path / "killed")
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("straight", "killed")]
    assert len(lines[0]) == len(lines[1]) == 12  # what was logged and lost with the kill is written once


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_stop_together(images, tmp_path):
    endless = "--config.steps=100000", "--config.optimizer.decay=constant"
    local, output = (str(ROOT / "launch/local.sh"), "--processes", "2", "--"), []
    with begin(*local, *command(images, tmp_path / "both", *endless), RDM=RDM) as both:
        for line in both.stdout:
            output.append(line)
            if "step 4/" in line:
                both.send_signal(signal.SIGTERM)
    assert both.returncode == 0 and any("stopped by a signal: saved step" in line for line in output), "".join(output)
    short = "--config.steps=4", "--config.optimizer.decay=constant"
    with begin(RDM, *command(images, tmp_path / "one", *short)) as one:
        output = one.stdout.read()
    assert one.returncode == 0, output
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "both")
    for step in range(1, 5):
        assert together[step] == pytest.approx(alone[step], rel=1e-5)
    assert restore_arrays(Workdir(tmp_path / "both"))[0] == max(together)


@pytest.mark.slow
def test_eight_devices_learn_what_one_does_and_two_resume_with_it(images, tmp_path):
    """The same losses on 1 device and on 8, and a checkpoint of the 8 is finished on 2, with another sharding."""
    rules = "--config.mesh.rules=[['.*kernel', 'split']]"

    def run(place, devices, steps, *more):
        settings = "--config.optimizer.decay=constant", "--config.batch_size=8", f"--config.steps={steps}", *more
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        with begin(RDM, *command(images, tmp_path / place, *settings), XLA_FLAGS=flags) as process:
            output = process.stdout.read()
        assert process.returncode == 0, output
        return output

    run("one", 1, 4)
    run("many", 8, 2, "--config.mesh.fsdp=4", rules)
    assert "resumed at step 2" in run("many", 2, 4, "--config.mesh.fsdp=2", rules)
    alone, together = losses(tmp_path / "one"), losses(tmp_path / "many")
    assert len(alone) == 4
    for step, loss in alone.items():
        assert together[step] == pytest.approx(loss, rel=1e-5)
    one, other = (restore_arrays(Workdir(tmp_path / name))[1] for name in ("one", "many"))
    for a, b in zip(jax.tree.leaves(one["params"]), jax.tree.leaves(other["params"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
