"""An image is the same on any number of devices, of one process or of several."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import extract, fine, frido, generate, masked, parti

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The images on this process's own devices."""
    return generate.images(tmp_path_factory.mktemp("here"), sizes=(1,))["1"]


def generate_elsewhere(out, devices, *arguments, module="generate"):
    """Generates in another process, or does what another helper does."""
    # The same low optimization level as here: the programs run once.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", f"tests.helpers.{module}", str(out), *map(str, arguments)]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]


def largest_difference(path, images):
    """The number of devices that generated a file's images, and how far they are from others, of 255."""
    found = np.load(path)
    return found["devices"], max(np.abs(found[size].astype(int) - images.astype(int)).max() for size in ("8", "3"))


# As between batches of several sizes: sums are added up in another order.
NEAR = 2


@pytest.mark.slow
def test_eight_devices_generate_what_one_does(tmp_path, here):
    generate_elsewhere(tmp_path, 8)
    devices, difference = largest_difference(tmp_path / "0" / "images.npz", here)
    assert devices == 8 and difference <= NEAR


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "helper", "least"),
    [("masked", masked, 1e-6), ("fine", fine, 1e-6), ("frido", frido, 1e-5), ("parti", parti, 1e-6)],
    ids=["codes", "two stages", "two scales", "texts"],
)
def test_eight_devices_generate_and_learn_as_one_does(tmp_path, name, helper, least):
    generate_elsewhere(tmp_path, 8, module=name)
    many = np.load(tmp_path / f"{name}.npz")
    difference = largest_difference(tmp_path / f"{name}.npz", helper.images((1,))["1"])
    assert difference[0] == 8 and difference[1] <= NEAR
    loss, gradient = helper.loss_and_gradient(1)
    assert many["loss"] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(many["gradient"], gradient, rtol=1e-3, atol=least)


def in_two_processes(out, module):
    """Runs a helper in two processes with two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank: generate_elsewhere(out, 2, 2, rank, port, module=module), range(2)))


@pytest.mark.slow
def test_two_processes_generate_what_one_does_and_both_have_it(tmp_path, here):
    in_two_processes(tmp_path, "generate")
    for rank in range(2):
        devices, difference = largest_difference(tmp_path / str(rank) / "images.npz", here)
        assert devices == 4 and difference <= NEAR


@pytest.mark.slow
def test_two_processes_extract_the_features_that_one_does_and_both_have_them(tmp_path):
    in_two_processes(tmp_path, "extract")
    contents, expected = extract.features()
    assert contents.paths == [f"{number:02d}.png" for number in range(11) if number != 4]
    for rank in range(2):
        found = np.load(tmp_path / f"{rank}.npz")
        assert found["paths"].tolist() == contents.paths and found["sha256"] == contents.sha256
        assert found["left_out"] == str(contents.left_out) == "1 image is left out: 1 broken (04.png)"
        assert found["count"] == 10
        np.testing.assert_allclose(found["features"], expected.features, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["logits"], expected.logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["mean"], expected.moments.mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["scatter"], expected.moments.scatter, rtol=1e-3, atol=1e-4)
