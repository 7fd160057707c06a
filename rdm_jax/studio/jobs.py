"""Jobs of the page: one at a time, in a thread, watched and canceled from others."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.cli.watch import Save
    from rdm_jax.core.progress import ProgressCallback
    from rdm_jax.generator import OnPreview, Plan

logger = logging.getLogger(__name__)


class Canceled(Exception):
    """The job was canceled; what it had finished is kept."""


@dataclasses.dataclass(frozen=True)
class Status:
    """What a job reports.

    Attributes:
      text: one line.
      done: the fraction that is done, in [0, 1].
      previews: estimates of the finished images so far, by index; the same until the next chunk of steps.
      result: what the job returned; None until it is finished.
      error: one line, if it failed or was canceled.
    """

    text: str
    done: float = 0.0
    previews: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    result: Any = None
    error: str = ""


class Job:
    """Work in a thread, which reports to whoever iterates over `statuses`; it is the `Watch` of its run."""

    def __init__(self, work: Callable[[Job], Any]) -> None:
        self._work, self._events = work, queue.SimpleQueue[Status | None]()
        self._status = Status("starting")
        self._canceled = threading.Event()
        self._start = time.monotonic()

    def cancel(self) -> None:
        """Ends the job between two chunks of steps."""
        self._canceled.set()

    def statuses(self) -> Iterator[Status]:
        """Runs the job, and yields its status whenever it changes; leaving early cancels it."""
        thread = threading.Thread(target=self._run, name="job", daemon=True)
        thread.start()
        try:
            while (status := self._events.get()) is not None:
                yield status
        finally:
            self.cancel()
            thread.join()

    def say(self, text: str, done: float | None = None) -> None:
        """Reports a line."""
        self._report(text=text, done=self._status.done if done is None else done)

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[ProgressCallback]:
        """Yields what is called with (steps done, all steps); it raises `Canceled` once the job is canceled."""
        begin = time.monotonic()

        def report(done: int, total: int) -> None:
            """Reports the steps and the time that is left."""
            if self._canceled.is_set():
                raise Canceled
            left = (time.monotonic() - begin) / done * (total - done) if done else None
            rest = "" if left is None or done == total else f", about {left:.0f} s left"
            self.say(f"{label} {done}/{total}{rest}", done / max(total, 1))

        yield report

    def previews(self, folder: Path, plan: Plan, save: Save) -> OnPreview | None:
        """Returns the callback that reports estimates of the finished images."""
        del folder, plan, save

        def show(indices: list[int], done: int, images: np.ndarray) -> None:
            """Reports the images of one batch."""
            del done
            self._report(previews={**self._status.previews, **dict(zip(indices, images, strict=True))})

        return show

    def _run(self) -> None:
        with _messages(self):
            try:
                self._report(text="finished", done=1.0, result=self._work(self))
            except Canceled:
                self._report(text="canceled", error="canceled; what was finished is in the history")
            except UserError as error:
                self._report(text="failed", error=" ".join(str(error).split()))
            except Exception as error:
                logger.exception("a job failed")
                self._report(text="failed", error=f"internal error: {type(error).__name__}; see the terminal")
        self._events.put(None)

    def _report(self, **changes: Any) -> None:
        self._status = dataclasses.replace(self._status, **changes)
        self._events.put(self._status)


@contextlib.contextmanager
def _messages(job: Job) -> Iterator[None]:
    """Reports what the package logs in this thread, such as that it compiles."""
    handler, thread = _Handler(job), threading.get_ident()
    handler.addFilter(lambda record: record.thread == thread and record.exc_info is None)
    package = logging.getLogger("rdm_jax")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, job: Job) -> None:
        super().__init__(logging.INFO)
        self._job = job

    def emit(self, record: logging.LogRecord) -> None:
        self._job.say(record.getMessage())
