"""Averages of any length are made of two that a run tracks."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.training import power_averages
from rdm_jax.training.config import load_config
from rdm_jax.training.export import export_run
from rdm_jax.training.loop import train
from rdm_jax.training.power_averages import LENGTHS, advance, begin, gamma_of, reconstruct, solve_weights
from rdm_jax.training.workdir import Workdir
from tests.helpers import tiny_run


def walk(steps: int) -> np.ndarray:
    """Returns parameters that wander, [steps, 3]."""
    return np.cumsum(np.random.default_rng(0).normal(size=(steps, 3)), axis=0).astype(np.float32)


def direct(params: np.ndarray, length: float) -> np.ndarray:
    """Returns the average with weights that are the integrals of s^gamma over each step."""
    ends = np.arange(len(params) + 1) ** (gamma_of(length) + 1.0)
    return np.diff(ends) @ params.astype(np.float64) / ends[-1]


def test_the_length_is_the_standard_deviation_of_the_weights() -> None:
    for length in (0.02, 0.05, 0.1, 0.25):
        places = (np.arange(200_000) + 0.5) / 200_000
        weights = places ** gamma_of(length)
        weights /= weights.sum()
        spread = np.sqrt(weights @ places**2 - (weights @ places) ** 2)
        assert spread == pytest.approx(length, rel=1e-4)
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.01) and gamma_of(0.10) == pytest.approx(6.94, abs=0.01)


def test_the_recursion_gives_the_directly_computed_averages() -> None:
    params = walk(300)
    averages = begin({"w": jnp.full(3, 1e6)})
    for step, row in enumerate(params, 1):
        averages = advance(averages, {"w": jnp.asarray(row)}, jnp.float32(step))
    for length, average in zip(LENGTHS, averages, strict=True):
        np.testing.assert_allclose(average["w"], direct(params, length), rtol=1e-3, atol=1e-3)


def test_any_length_is_reconstructed_from_snapshots(tmp_path: Path) -> None:
    params, workdir = walk(2000), Workdir(tmp_path)
    for step in range(125, 2001, 125):
        tracked = [{"net": {"w": direct(params[:step], length).astype(np.float32)}} for length in LENGTHS]
        power_averages.write_snapshot(workdir, tracked, step)
    for length in (0.05, 0.06, 0.08, 0.1, 0.15, 0.2):
        step, found = reconstruct(workdir, length, 2000)
        assert step == 2000
        wanted = direct(params, length)
        error = np.abs(found["net"]["w"] - wanted).max()
        assert error < 0.02 * np.abs(params).max(), (length, error)
    assert reconstruct(workdir, 0.07, 1999)[0] == 1875
    exact = solve_weights([(8.0, gamma_of(0.05)), (8.0, gamma_of(0.1))], (8.0, gamma_of(0.1)))
    np.testing.assert_allclose(exact, [0.0, 1.0], atol=1e-6)


def test_lengths_and_runs_that_cannot_be_are_named(tmp_path: Path) -> None:
    for length in (0.0, 0.3):
        with pytest.raises(UserError, match=r"--ema-length .* is out of range"):
            gamma_of(length)
    with pytest.raises(UserError, match="has no averages to reconstruct others from"):
        reconstruct(Workdir(tmp_path), 0.1, 100)
    (tmp_path / "averages").mkdir()
    (tmp_path / "averages" / "000000002.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"000000002\.safetensors is damaged"):
        reconstruct(Workdir(tmp_path), 0.1, 100)


@pytest.mark.slow
def test_a_run_tracks_them_over_a_stop_and_exports_any_length(tmp_path: Path) -> None:
    images = tiny_run.write_images(tmp_path / "images")

    def run(workdir: str, *overrides: str):
        settings = tiny_run.overrides(images, tmp_path / "cache", {"optimizer.warmup": 1, "snapshot_every": 2})
        config = load_config(tiny_run.CONFIG, [*settings, *overrides])
        options = {"init_from": None, "report": lambda *_: None, "progress": lambda *_: None}
        return jax.device_get(train(config, tmp_path / workdir, **options))

    run("straight", "steps=4")
    run("halves", "steps=2")
    run("halves", "steps=4")
    straight, halves = (export_run(tmp_path / name, 0.1) for name in ("straight", "halves"))
    chex.assert_trees_all_equal(straight.params, halves.params)
    assert straight.config["training"]["autoencoder"]["ema_length"] == 0.1
    own = export_run(tmp_path / "straight")
    assert "ema_length" not in own.config["training"]["autoencoder"] and own.digest != straight.digest
    run("plain", "steps=2", "snapshot_every=0")
    with pytest.raises(UserError, match="has no averages"):
        run("plain", "steps=4")
