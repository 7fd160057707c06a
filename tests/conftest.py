"""What every test runs under: strict JAX settings, two simulated devices, and the folder of golden outputs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The tests spend their time compiling programs that run once: XLA need not make them fast. (At level 0 an image is
# no longer the same bit for bit in programs of other shapes, by JAX 0.12.)
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true")

import jax
import pytest
from hypothesis import HealthCheck, settings

# `make fuzz` takes the second one: other examples each time, many more of them.
_QUIET = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large)
settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=40, database=None, suppress_health_check=_QUIET
)
settings.register_profile("fuzz", deadline=None, max_examples=2000, suppress_health_check=_QUIET, print_blob=True)
settings.load_profile(os.environ.get("RDM_HYPOTHESIS", "ci"))

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Keeps what was compiled for all other tests of the session, and for all its workers."""
    base = tmp_path_factory.getbasetemp()
    folder = base if worker_id == "master" else base.parent  # each worker has a folder of its own in the session's
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


MAPPED = 40_000  # regions of memory; Linux allows a process 65,530, and each compiled program has several


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Forgets compiled programs before a long session has so many that the next one ends the process."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPPED:
        jax.clear_caches()


def keep_environment(patch: pytest.MonkeyPatch) -> None:
    """Lets the command line set what it sets for its own process; the end of the patch undoes it."""
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "TRANSFORMERS_VERBOSITY"):
        patch.setenv(name, "")  # for what stood there to come back at the end, nothing too
        patch.delenv(name)


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what the command line sets from the next test."""
    keep_environment(monkeypatch)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with outputs of the original programs (RDM_GOLDEN); tests that need it skip without."""
    folder = os.environ.get("RDM_GOLDEN", "")
    if not folder or not Path(folder, "README.md").is_file():  # without a folder this would be the project's README
        pytest.skip("RDM_GOLDEN names no folder with golden outputs")
    return Path(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Writes in the closing lines how many faults were injected (tests/faults)."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, [])]
    counts = [value for one in reports for name, value in one.user_properties if name == "faults"]
    if counts:
        terminalreporter.write_line(
            f"faults: {sum(one for one, _ in counts)} of {sum(all_ for _, all_ in counts)} points"
        )
