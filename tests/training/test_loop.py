"""Whole runs on a folder of a few images: resuming, refusing, stopping."""

import json
import logging
import os
import shutil
import signal
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.parts import PARTS
from rdm_jax.training.config import load_config
from rdm_jax.training.export import export_run
from rdm_jax.training.loop import matching_parts, train
from tests.helpers import tiny, tiny_run


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return tiny_run.write_images(tmp_path_factory.mktemp("loop") / "images")


def config_for(images: Path, *overrides: str) -> ConfigDict:
    settings = tiny_run.overrides(images, images.parent / "cache", {"optimizer.warmup": 1})
    return load_config(tiny_run.CONFIG, [*settings, *overrides])


def run(config: ConfigDict, workdir: Path, **options):
    logged = []
    options = {"init_from": None, "progress": lambda *_: None, **options}
    state = train(config, workdir, report=lambda step, steps, values: logged.append((step, values)), **options)
    return jax.device_get(state), logged


@pytest.mark.slow
def test_resuming_equals_going_straight_through_bit_for_bit(images: Path, tmp_path: Path) -> None:
    straight, logged = run(config_for(images, "steps=4"), tmp_path / "straight")
    assert [step for step, _ in logged] == [1, 2, 3, 4]
    run(config_for(images, "steps=2"), tmp_path / "halves")
    resumed, logged = run(config_for(images, "steps=4"), tmp_path / "halves")
    assert [step for step, _ in logged] == [3, 4]
    chex.assert_trees_all_equal(straight, resumed)
    lines = [json.loads(line) for line in (tmp_path / "halves/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and all("loss" in line for line in lines)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(images: Path, tmp_path: Path) -> None:
    config = config_for(images, "steps=4")
    straight, _ = run(config, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/4"
    for file in newest.rglob("*"):
        if file.is_file() and "ocdbt" not in file.name and file.stat().st_size > 0 and "state" in str(file):
            file.write_bytes(b"")
    resumed, logged = run(config, tmp_path / "run")
    assert [step for step, _ in logged] == [3, 4]
    chex.assert_trees_all_equal(straight.params, resumed.params)


@pytest.mark.slow
def test_a_workdir_belongs_to_one_config(images: Path, tmp_path: Path) -> None:
    run(config_for(images, "steps=1"), tmp_path)
    with pytest.raises(UserError, match=r"differs in batch_size"):
        run(config_for(images, "steps=1", "batch_size=2"), tmp_path)


@pytest.mark.slow
def test_before_its_first_checkpoint_a_workdir_takes_another_config(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-such"):
        run(config_for(images, "steps=1", "data.source=no-such"), tmp_path)
    state, _ = run(config_for(images, "steps=1"), tmp_path)
    assert state.step == 1


@pytest.mark.slow
def test_an_interruption_saves_the_state_and_the_run_resumes_there(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(step: int, *_: object) -> None:
        if step == 3:
            with pytest.raises(UserError, match=rf"another process is writing .*process {os.getpid()} on"):
                run(config, tmp_path)  # while this one has the folder
            signal.raise_signal(signal.SIGINT)

    config = config_for(images, "steps=5", "checkpoint_every=5")
    with caplog.at_level(logging.INFO, "rdm_jax"), pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, init_from=None, report=interrupt, progress=lambda *_: None)
    assert "Ctrl-C again stops at once" in caplog.text and "saved step 3; the same command resumes" in caplog.text
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 4, "lo')
    assert main(["info", str(tmp_path)]) == 0
    _, logged = run(config, tmp_path)
    assert [step for step, _ in logged] == [4, 5]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(images: Path, tmp_path: Path) -> None:
    config = config_for(images, "steps=2")
    run(config, tmp_path)
    bad = config_for(images, "steps=6", "checkpoint_every=100")
    import rdm_jax.training.tasks.autoencoder as task

    original = task.psnr
    task.psnr = lambda error: error * np.float32(np.nan)
    try:
        with pytest.raises(UserError, match=r"psnr is not finite at step 3"):
            run(bad, tmp_path)
    finally:
        task.psnr = original
    assert (tmp_path / "checkpoints/2").is_dir()


@pytest.mark.slow
def test_the_export_needs_no_data_holds_the_average_and_starts_another_run(images: Path, tmp_path: Path) -> None:
    folder = tiny_run.write_images(tmp_path / "images")
    state, _ = run(config_for(folder, "steps=3", f"data.data_dir={tmp_path / 'data'}"), tmp_path / "run")
    for gone in (folder, tmp_path / "data"):
        shutil.rmtree(gone)
    bundle = export_run(tmp_path / "run")
    assert set(bundle.params) == {part for part in PARTS if part in bundle.config} == {"autoencoder"}
    chex.assert_trees_all_equal(bundle.params["autoencoder"], jax.device_get(state.ema["autoencoder"]))
    assert bundle.config["training"]["autoencoder"]["steps"] == 3
    bundle.save(tmp_path / "bundle", "float32")
    assert Bundle.open(tmp_path / "bundle").digest
    started, _ = run(
        config_for(images, "steps=2", "optimizer.frozen=['.*']"),
        tmp_path / "fine",
        init_from=str(tmp_path / "bundle"),
    )
    chex.assert_trees_all_equal(started.params, jax.device_get(state.ema))


@pytest.mark.slow
def test_a_bundle_of_another_shape_is_refused(images: Path, tmp_path: Path) -> None:
    run(config_for(images, "steps=1"), tmp_path / "run")
    export_run(tmp_path / "run").save(tmp_path / "bundle")
    with pytest.raises(UserError, match=r"autoencoder differs in \d+ parameters"):
        run(config_for(images, "steps=1", "model.ch=8"), tmp_path / "other", init_from=str(tmp_path / "bundle"))


def test_a_partial_start_takes_the_parameters_that_fit() -> None:
    bundle = tiny.bundle()
    trained = trees.flatten(bundle.params["autoencoder"])
    fresh = {name: np.zeros_like(leaf) for name, leaf in trained.items()}
    fresh["decoder/conv_in/kernel"] = np.zeros((3, 3, 2, 4))  # of another shape
    fresh["codebook"] = np.zeros((8, 2))  # not in the bundle
    started = trees.flatten(
        matching_parts(bundle, {"autoencoder": trees.unflatten(fresh)}, partial=True)["autoencoder"]
    )
    assert started.keys() == fresh.keys()
    for name, leaf in started.items():
        taken = name not in ("decoder/conv_in/kernel", "codebook")
        np.testing.assert_array_equal(leaf, trained[name] if taken else fresh[name])
