"""A run on gs://, with Google's own clients against a server that stands in for theirs (`make cloud` installs both)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import tiny_run

BIN = Path(sys.executable).parent
SERVER = shutil.which("gcp-storage-emulator", path=str(BIN))

pytestmark = pytest.mark.skipif(not SERVER, reason="gcp-storage-emulator is not installed")


@pytest.fixture
def bucket():
    """Yields the environment of a program that takes a local server for Google's, where there is an empty bucket."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    address = f"http://localhost:{port}"
    command = [str(SERVER), "start", "--host=localhost", f"--port={port}", "--in-memory", "--default-bucket=bucket"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port)
            yield {
                **os.environ,
                "STORAGE_EMULATOR_HOST": address,  # gcsfs: what the run itself and Orbax's metadata go through
                "TENSORSTORE_GCS_HTTP_URL": address,  # TensorStore: the arrays of checkpoints
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # the server speaks no gRPC, by which gcsfs asks for more
            }
        finally:
            server.terminate()


def _wait_for(port):
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing answers at port {port}")


def rdm(environment, cache, *arguments):
    variables = {**environment, "RDM_CACHE": str(cache)}
    done = subprocess.run([str(BIN / "rdm"), *arguments], env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def train(environment, cache, source, workdir, steps):
    settings = {"figures_every": 2, "optimizer.decay": "constant", "steps": steps}
    return rdm(environment, cache, *tiny_run.command(source, cache / "data", workdir, settings))


def hashes(environment, cache, workdir):
    lines = rdm(environment, cache, "info", workdir).splitlines()
    return [line for line in lines if line.startswith(("step ", "sha256"))]


def test_a_run_on_gs_resumes_on_another_machine_and_ends_as_a_local_one(bucket, tmp_path):
    from gcsfs.core import GCSFileSystem

    images = tiny_run.write_images(tmp_path / "images")
    system = GCSFileSystem(endpoint_url=bucket["STORAGE_EMULATOR_HOST"], token="anon")
    system.put(f"{images}/", "bucket/images/", recursive=True)

    train(bucket, tmp_path / "one", "gs://bucket/images", "gs://bucket/run", 2)
    output = train(bucket, tmp_path / "two", "gs://bucket/images", "gs://bucket/run", 4)
    assert "resumed at step 2" in output
    train(bucket, tmp_path / "three", str(images), str(tmp_path / "local"), 4)
    there, here = (hashes(bucket, tmp_path / "two", place) for place in ("gs://bucket/run", str(tmp_path / "local")))
    assert len(here) == 5 and there == here
    kept = {path.removeprefix("bucket/run/").split("/")[0] for path in system.find("bucket/run")}
    assert kept == {"config.json", "model.json", "metrics.jsonl", "checkpoints", "figures", "tensorboard"}
    assert len(system.cat("bucket/run/metrics.jsonl").splitlines()) == 4
