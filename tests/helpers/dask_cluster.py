"""A Dask scheduler and its workers as processes of their own on the loopback interface, and work that waits in them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from rdm_jax.data.examples import Example, ImageSource

ROOT = Path(__file__).parents[2]
SECONDS = 90  # after which a test fails, on a machine with much other work


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Returns once a condition holds; fails when it takes too long."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {SECONDS} s"
        time.sleep(0.02)


class Cluster:
    """Starts processes, all of which end with the block of `started`.

    Attributes:
      file: the scheduler's file.
      workers: the processes of the workers that were started and not killed.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.file, self.workers = folder / "scheduler.json", []
        self._folder, self._log = folder, (folder / "log").open("wb")
        shared = {"jax_platforms": "cpu", "jax_num_cpu_devices": "2", "jax_default_matmul_precision": "highest"}
        shared["jax_compilation_cache_dir"] = str(jax.config.jax_compilation_cache_dir)
        self._environment = os.environ | {key.upper(): value for key, value in (shared | settings).items()}
        self._environment["PYTHONPATH"] = str(ROOT)
        self.scheduler = self._start("dask_scheduler", "--port=0")

    @staticmethod
    @contextlib.contextmanager
    def started(folder: Path, **settings: str) -> Iterator[Cluster]:
        """Yields a scheduler without workers; `settings` are variables of the environment."""
        cluster = Cluster(folder, **settings)
        try:
            yield cluster
        finally:
            for process in [*cluster.workers, cluster.scheduler]:
                process.kill()
                process.wait()
            cluster._log.close()

    def add(self) -> subprocess.Popen[bytes]:
        """Starts a worker of one thread, which joins later."""
        self.workers.append(
            self._start("dask_worker", "--no-nanny", "--nthreads=1", f"--local-directory={self._folder}")
        )
        return self.workers[-1]

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """Kills a worker."""
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        self.workers.remove(worker)

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        common = ("--host=127.0.0.1", "--no-dashboard", f"--scheduler-file={self.file}")
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *common, *arguments],
            env=self._environment,
            cwd=self._folder,
            stdout=self._log,
            stderr=self._log,
        )


@dataclasses.dataclass(frozen=True)
class Gate:
    """A file that processes wait for, and a record of those that have come to it.

    Attributes:
      folder: of the files.
    """

    folder: Path

    def enter(self, number: int) -> None:
        """Records this process at a number, and waits until the gate is open."""
        (self.folder / f"{number}-{os.getpid()}").touch()
        wait_for((self.folder / "open").exists, "the gate is open")

    def open(self) -> None:
        """Lets all processes pass."""
        (self.folder / "open").touch()

    def entries(self) -> list[tuple[int, int]]:
        """Returns (number, process id) of those who have come."""
        names = [path.name for path in self.folder.iterdir() if path.name != "open"]
        return sorted((int(number), int(pid)) for number, pid in (name.split("-") for name in names))

    def processes(self) -> set[int]:
        """Returns the ids of the processes that have come."""
        return {pid for _, pid in self.entries()}


@dataclasses.dataclass(frozen=True)
class GatedSource:
    """A source, some images of which are read through a gate.

    Attributes:
      source: the images.
      gate: the gate.
      numbers: of the images.
    """

    source: ImageSource
    gate: Gate
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        if index in self.numbers:
            self.gate.enter(index)
        return self.source[index]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the source: the images are the same."""
        return self.source.fingerprint

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.source.name

    @property
    def captions(self) -> str:
        """Where the captions come from."""
        return self.source.captions

    @property
    def shard_lengths(self) -> object:
        """The files of the source."""
        return self.source.shard_lengths

    def labels(self, index: int) -> object:
        """Returns the labels of an example."""
        return self.source.labels(index)


def end_process(number: int) -> int:
    """Ends the process that it runs in, as the lack of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def no_work(number: int) -> int:
    """Returns the number."""
    return number
