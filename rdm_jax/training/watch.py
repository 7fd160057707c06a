"""Detects that a process of the run is gone, so that the others do not wait for it forever.

Every process writes a growing number into its own file in the run's folder. A process that sees another's number
unchanged for too long names that process, and exits. Collectives alone would wait, or fail without a name.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

import jax

from rdm_jax.core.errors import UserError, some
from rdm_jax.training.workdir import Workdir

_LOG = logging.getLogger(__name__)

FOLDER = "processes"
BEATS = 8  # within the time after which silence counts
GONE = 75  # EX_TEMPFAIL: the same command may succeed


class Watch:
    """Writes a heartbeat for this process and watches the others, in the background, while it is open.

    Args:
      workdir: of the run; all processes see it.
      seconds: how long another may be silent.
    """

    def __init__(self, workdir: Workdir, seconds: float) -> None:
        self._workdir, self._seconds = workdir, seconds
        self._own, self._count = jax.process_index(), jax.process_count()
        self._done = threading.Event()
        self._heard: dict[int, tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        if self._count > 1:
            self._beat(0)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._count == 1:
            return
        if kind is None:
            self._write("finished")
        elif issubclass(kind, (RuntimeError, ValueError)):
            self._wait_for_silence()
        self._done.set()

    def missing(self) -> list[int]:
        """Returns the processes that have been silent for too long."""
        now = time.monotonic()
        for process in range(self._count):
            if process == self._own:
                continue
            beat = self._read(process)
            if beat != self._heard.get(process, ("", 0.0))[0] or process not in self._heard:
                self._heard[process] = (beat, now)
        return [
            process
            for process, (beat, since) in self._heard.items()
            if beat != "finished" and now - since > self._seconds
        ]

    def _run(self) -> None:
        beats = 0
        while not self._done.wait(self._seconds / BEATS):
            beats += 1
            self._beat(beats)
            missing = self.missing()
            if missing:
                self._leave(missing)

    def _wait_for_silence(self) -> None:
        # A collective has failed: a process is gone. Its silence will show which.
        deadline = time.monotonic() + 1.5 * self._seconds
        while time.monotonic() < deadline:
            time.sleep(self._seconds / BEATS)

    def _leave(self, missing: list[int]) -> None:
        names = some((f"{process} ({self._host(process)})" for process in missing), 4)
        _LOG.error(
            "process %s of %d has been silent for %.0f s; this one, %d, stops too: the same command resumes from the "
            "last checkpoint",
            names,
            self._count,
            self._seconds,
            self._own,
        )
        os._exit(GONE)  # the rest of the run waits in collectives that nothing else ends

    def _beat(self, number: int) -> None:
        self._write(f"{number} {socket.gethostname()} {os.getpid()}")

    def _write(self, text: str) -> None:
        try:
            self._workdir.write(f"{FOLDER}/{self._own}", text.encode())
        except UserError as error:
            _LOG.warning("%s", error)

    def _read(self, process: int) -> str:
        return (self._workdir.read(f"{FOLDER}/{process}") or b"").decode()

    def _host(self, process: int) -> str:
        parts = self._read(process).split()
        return f"host {parts[1]}, pid {parts[2]}" if len(parts) == 3 else "never heard of"
