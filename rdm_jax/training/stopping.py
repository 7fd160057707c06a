"""The signals that end a run early: SIGTERM and the first Ctrl-C save a checkpoint, a second Ctrl-C stops at once."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from typing import Any

import jax

from rdm_jax.core.distributed import should_stop

_LOG = logging.getLogger(__name__)


class StoppedAtOnce(KeyboardInterrupt):
    """Ctrl-C was pressed a second time: a checkpoint may still be half written in the background."""


class Stopping:
    """Catches the signals from `catch` on, in the main thread; after the block the handlers of before are back.

    With several processes JAX receives SIGTERM, and all of them stop at the same step. A Ctrl-C is passed on to it.

    Attributes:
      requested: whether the run ends early.
      interrupted: whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.requested = self.interrupted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def catch(self) -> None:
        """Begins to catch the signals; before, there is nothing to save."""
        if threading.current_thread() is threading.main_thread():
            handlers: dict[int, Any] = {signal.SIGINT: self._interrupt}
            if jax.process_count() == 1:
                handlers[signal.SIGTERM] = self._request
            self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def due(self, step: int) -> bool:
        """Returns whether the run ends after this step, the same in all processes."""
        if should_stop(step):
            self.requested = True
        return self.requested

    def _request(self, *_: object) -> None:
        self.requested = True

    def _interrupt(self, *_: object) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, _stop_at_once)
        if jax.process_count() == 1:
            self.requested = True
        else:
            signal.raise_signal(signal.SIGTERM)
        with contextlib.suppress(RuntimeError):  # the signal came while another line was being written
            _LOG.info("interrupted: a checkpoint is saved after this step; Ctrl-C again stops at once")


def _stop_at_once(*_: object) -> None:
    raise StoppedAtOnce
