"""Messages of the command line on standard error, and progress with the remaining time."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

# Where the output is no terminal, the first line comes after so many seconds; the pauses double up to the longest.
LINE_SECONDS, LONGEST_SECONDS = 5.0, 60.0


def note(text: str) -> None:
    """Writes the line `rdm: text` to standard error, above a progress bar if one is shown."""
    line = f"rdm: {text}"
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def shown_log(level: int = logging.INFO) -> Iterator[logging.Logger]:
    """Shows the package's log records from this level up as lines of `note`; at DEBUG with tracebacks."""
    logger, handler = logging.getLogger("rdm_jax"), _NoteHandler()
    before = logger.level, logger.propagate
    logger.setLevel(level)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and logging.getLogger("rdm_jax").level <= logging.DEBUG:
            sys.stderr.write("".join(traceback.format_exception(*record.exc_info)))
        note(("warning: " if record.levelno == logging.WARNING else "") + record.getMessage())


class Progress:
    """Shows the progress of a task: a tqdm bar on a terminal; elsewhere a line every few seconds and one at the end.

    Functions of the package take it as `progress`, and call it with (done, total).

        with Progress("embedding", unit="image") as progress:
            build_database(..., progress=progress)
    """

    def __init__(self, label: str, unit: str = "step", quiet: bool = False, seconds: float = LINE_SECONDS) -> None:
        self._label, self._unit, self._quiet, self._seconds = label, unit, quiet, seconds
        self._bar: Any = None
        self._start: float | None = None
        self._last = 0.0
        self._before = 0  # units that an earlier run had done when the clock started
        self._ended = 0  # the total whose end was reported

    def __call__(self, done: int, total: int | None = None) -> None:
        """Shows that `done` of `total` units are done; `total` may be unknown. The clock starts with the first call."""
        if self._quiet:
            return
        if self._start is None:
            self._start, self._before = time.monotonic(), done
            self._last = self._start
        if sys.stderr.isatty():
            self._update_bar(done, total)
        else:
            self._write_line(done, total, self._start)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _update_bar(self, done: int, total: int | None) -> None:
        if done == total == self._ended:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(desc=self._label, total=total, unit=self._unit, file=sys.stderr, dynamic_ncols=True)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.refresh()  # tqdm skips an update that follows the last one too soon
            self._bar.close()  # otherwise it appears again below every line that follows
            self._bar, self._ended = None, done

    def _write_line(self, done: int, total: int | None, start: float) -> None:
        now = time.monotonic()
        if done == total:
            self._write_end(done, now - start)
            return
        if now - self._last < self._seconds:
            return
        self._last, self._seconds = now, min(2 * self._seconds, LONGEST_SECONDS)
        rate = (done - self._before) / (now - start)
        if total is None or not rate:
            note(f"{self._label}: {done} {self._unit}s, {format_rate(rate)}")
        else:
            left = format_seconds((total - done) / rate)
            note(f"{self._label}: {done}/{total} {self._unit}s, {format_rate(rate)}, {left} left")

    def _write_end(self, total: int, seconds: float) -> None:
        if total != self._ended:
            note(f"{self._label}: {total}/{total} {self._unit}s in {format_seconds(seconds)}")
        self._ended = total


def format_rate(rate: float) -> str:
    """Returns a rate as text: "1,234 per second", "2.5 per second", or below 0.1 "30.0 s each"."""
    if 0 < rate < 0.1:
        return f"{format_seconds(1.0 / rate)} each"
    digits = 0 if rate >= 100 else 1 if rate >= 10 else 2
    return f"{rate:,.{digits}f} per second"


def format_seconds(seconds: float) -> str:
    """Returns a duration as text: "4.2 s", "3 min 05 s" or "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
