"""The claim of a run on its folder: two trainings in one folder would mix their metrics and their checkpoints."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rdm_jax.core import files, storage
from rdm_jax.core.distributed import is_first
from rdm_jax.core.errors import UserError
from rdm_jax.training.workdir import Workdir

_LOG = logging.getLogger(__name__)

LOCK = "train.lock"
HOLDER = "process.json"


class Claim:
    """What a run holds while it trains in a folder.

    Args:
      workdir: the folder.
      holder: this process's record in `HOLDER`; empty in processes that hold nothing.
    """

    def __init__(self, workdir: Workdir, holder: dict[str, Any]) -> None:
        self._workdir, self._holder = workdir, holder

    def check(self) -> None:
        """Raises UserError if another process has taken the folder, which is possible in object storage alone."""
        if not self._holder or not self._workdir.is_remote:
            return
        with contextlib.suppress(OSError):  # a network that fails for a moment: the next check sees it
            holder = _read(self._workdir)
            if holder != self._holder:
                raise UserError(
                    f"another process has begun to train in {self._workdir}{_described(holder)}, and this one stops; "
                    "use another --workdir"
                )


@contextlib.contextmanager
def claimed(workdir: Workdir) -> Iterator[Claim]:
    """Yields the claim of a run on its folder, which ends with the block; a killed process lets go as well.

    One process claims for all of its run. On a disk it holds a lock, and a second run is refused. Object storage has no
    locks. There, runs of one machine exclude each other by the lock of their local copy. Of two machines the one that
    starts last has the folder: the other one stops before its next metrics or checkpoint (`Claim.check`), and what both
    write until then is mixed.

    Raises:
      UserError: another run has the folder, or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        refused, claim = None, Claim(workdir, {})
        if is_first():
            try:
                claim = held.enter_context(_held(workdir))
            except UserError as error:
                refused = error
        if _in_first_process(refused is not None):
            raise refused or UserError(f"another process is writing to {workdir}; the message of process 0 names it")
        yield claim


@contextlib.contextmanager
def _held(workdir: Workdir) -> Iterator[Claim]:
    """Yields the claim of this process."""
    before = _read(workdir)
    with files.locked(workdir.local / LOCK, f"{workdir}{_described(before)}"):
        if before and workdir.is_remote:
            _LOG.warning(
                "the last run in %s%s has not ended; if it still trains, it stops at its next write",
                workdir,
                _described(before),
            )
        begun = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "begun": begun}
        workdir.write_json(HOLDER, holder)
        try:
            yield Claim(workdir, holder)
        finally:
            with contextlib.suppress(OSError):
                _remove(workdir, holder)


def _read(workdir: Workdir) -> dict[str, Any]:
    """Returns the record of the process that holds a folder, or has held it and was killed."""
    try:
        if workdir.is_remote:
            return dict(json.loads(storage.read(f"{workdir}/{HOLDER}")))
        return dict(json.loads((workdir.local / HOLDER).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _remove(workdir: Workdir, holder: dict[str, Any]) -> None:
    """Removes the record of this process."""
    if not workdir.is_remote:
        (workdir.local / HOLDER).unlink(missing_ok=True)
    elif _read(workdir) == holder:
        storage.remove(f"{workdir}/{HOLDER}")


def _described(holder: dict[str, Any]) -> str:
    """Returns a process for a message, "" where it is unknown."""
    if not {"host", "pid", "begun"} <= holder.keys():
        return ""
    return f" (process {holder['pid']} on {holder['host']}, since {holder['begun'][:16]} UTC)"


def _in_first_process(value: bool) -> bool:
    """Returns the value of the first process of the run, in all of them."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))
