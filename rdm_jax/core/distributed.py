"""Several processes as one run: how they find each other, and who speaks for them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from rdm_jax.core.errors import UserError, first_line

T = TypeVar("T")

# Longer than any watch of ours, so that it is ours that says who is missing.
HEARTBEAT_SECONDS = 900


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins this process to the others of its run; must come before the first use of a device.

    Args:
      coordinator: "host:port" of process 0. Where none of the three is given, the cluster (Slurm, a TPU pod, GKE) tells
        them.
      processes: how many there are.
      process: this one's number, from 0.

    Raises:
      UserError: only some of the three are given, or the others are not found.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise UserError("--coordinator, --processes and --process belong together; give all three, or --distributed")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UserError(f"--process {process} is out of range; there are {processes}: give 0 to {processes - 1}")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(
            f"cannot join the other processes ({reason}); on no known cluster give --coordinator HOST:PORT, "
            "--processes N and --process I"
        ) from error


def is_first() -> bool:
    """Says whether this process writes and speaks for all."""
    return jax.process_index() == 0


def first_then_others(work: Callable[[], T]) -> T:
    """Returns what every process's `work` returns; the first one's is done before the others begin theirs.

    So what is prepared on a disk that all of them see is prepared once.
    """
    if jax.process_count() == 1:
        return work()
    from jax.experimental import multihost_utils

    found = work() if is_first() else None
    multihost_utils.sync_global_devices("first process")
    return work() if found is None else found


def gather(value: T) -> list[T]:
    """Returns the values of all processes, in the order of their numbers; every process must call it.

    Args:
      value: anything that can be pickled, of any size in each process.
    """
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(data))))
    padded = np.pad(data, (0, int(sizes.max()) - len(data)))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def should_stop(step: int) -> bool:
    """Returns whether the processes stop after this step: the same on all of them, after a SIGTERM to one of them."""
    if jax.process_count() == 1:
        return False
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
