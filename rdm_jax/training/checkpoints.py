"""Checkpoints of a run in WORKDIR/checkpoints/<step> (Orbax): saved in the background, each complete or absent."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError, first_line, some, unknown
from rdm_jax.training.state import State, abstract_like
from rdm_jax.training.stopping import StoppedAtOnce
from rdm_jax.training.workdir import CHECKPOINTS, Workdir

AVERAGES = "averages"

_LOG = logging.getLogger(__name__)
_OS_ERROR = re.compile(r"\[OS error \d+: ([^\]]+)\]|(No space left on device)|: ([^:]+) \[os_error_code=")


class Checkpoints:
    """Saves and restores the state together with the position in the data and a record of what it was made from.

    Args:
      workdir: the run's folder.
      keep: how many of the newest checkpoints stay.
      keep_every: checkpoints of multiples of this step stay too; 0 for none.
    """

    def __init__(self, workdir: Workdir, keep: int, keep_every: int = 0) -> None:
        from orbax.checkpoint import v1 as ocp

        policies: Any = ocp.training.preservation_policies
        kept = [policies.LatestN(keep)] + ([policies.EveryNSteps(keep_every)] if keep_every else [])
        self._workdir = workdir
        self._saver = ocp.training.Checkpointer(
            workdir.checkpoints,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An error elsewhere does not cost the checkpoint that is being written. Of several processes the others may not
        # come to this point, and would be waited for.
        if kind is not None and not issubclass(kind, StoppedAtOnce) and jax.process_count() == 1:
            with contextlib.suppress(Exception):
                self._saver.close()

    @property
    def steps(self) -> list[int]:
        """The steps that are saved, the newest first."""
        return sorted((checkpoint.step for checkpoint in self._saver.checkpoints), reverse=True)

    def save(
        self, state: State, data_state: Mapping[str, Any], record: Mapping[str, Any], averages: tuple[Any, ...] = ()
    ) -> None:
        """Starts to save the state, in place of an older checkpoint of its step; arrays are copied before it returns.

        Args:
          state: of all processes.
          data_state: the position in the data.
          record: what the run is made from, as JSON.
          averages: of the parameters, where the run tracks some beside the state's own.

        Raises:
          UserError: this or the last one could not be written.
        """
        step = int(state.step)
        position = {"data": dict(data_state), "record": dict(record), "sums": sums(state)}
        items = {"state": state, "data": {"json": json.dumps(position)}}
        if averages:
            items[AVERAGES] = {str(number): average for number, average in enumerate(averages)}
        with self._writing():
            self._saver.save_checkpointables_async(step, items, force=True, overwrite=True)

    def restore(self, state: State) -> tuple[State, dict[str, Any], dict[str, Any]] | None:
        """Returns the newest sound checkpoint in the shape of `state`, the position in the data and the record.

        An unreadable or altered checkpoint is skipped for the one before, with a warning; None if there is none.

        Raises:
          UserError: there are checkpoints and none can be read.
        """
        steps = self.steps
        for step in steps:
            try:
                items = self._saver.load_checkpointables(step, {"state": abstract_like(state), "data": None})
                position = json.loads(items["data"]["json"])
                _check_sums(items["state"], position["sums"])
            except Exception as error:  # Orbax raises many types for a damaged folder
                _LOG.warning("checkpoint %d cannot be read and is skipped: %s", step, first_line(error))
                continue
            return items["state"], position["data"], position["record"]
        if steps:
            raise UserError(
                f"none of the checkpoints {some(map(str, steps))} in {self._saver.directory} can be read; use another "
                "workdir"
            )
        return None

    def restore_averages(self, step: int, averages: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns the averages of a checkpoint in the shape of others.

        Raises:
          UserError: the checkpoint has none, or they cannot be read.
        """
        like = {str(number): abstract_like(average) for number, average in enumerate(averages)}
        try:
            found = self._saver.load_checkpointables(step, {AVERAGES: like})[AVERAGES]
        except Exception as error:  # Orbax raises many types
            raise UserError(
                f"checkpoint {step} of {self._workdir} has no averages (the run began without snapshot_every, or they "
                f"are damaged: {first_line(error)}); set snapshot_every=0, or use another --workdir"
            ) from error
        return tuple(found[str(number)] for number in range(len(averages)))

    def check_space(self, state: State) -> None:
        """Raises UserError if the disk cannot hold one more checkpoint of the state."""
        free, needed = self._workdir.free_bytes(), trees.nbytes(state)
        if free is not None and free < needed:
            raise UserError(
                f"{self._workdir} has {free / 1e9:.2f} GB left, and a checkpoint takes {needed / 1e9:.2f} GB; make "
                "room, or choose another --workdir"
            )

    def close(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          UserError: it could not be written.
        """
        with self._writing():
            self._saver.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            removed = not self._workdir.is_remote and not Path(self._workdir.checkpoints).is_dir()
            removed |= "does not exist" in str(error)  # Orbax's own error
            # Orbax and TensorStore have many errors of their own; what they cannot write concerns this folder.
            reason = unwritten(error) or (os.strerror(errno.ENOENT) if removed else first_line(error))
            kept = f"step {self.steps[0]} is kept" if self.steps else "none was written before"
            kept = "the folder was removed meanwhile" if removed else kept
            raise UserError(
                f"cannot write a checkpoint to {self._workdir.checkpoints}: {reason} ({kept}); make room there or give "
                "write access, and the same command resumes"
            ) from error


def unwritten(error: BaseException | None) -> str:
    """Returns why the system could not write a file, where an error is or comes from that; "" for other errors."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        if match := _OS_ERROR.search(str(error)):
            return next(filter(None, match.groups()))
        error = error.__cause__ or error.__context__
    return ""


def _bit_sum(leaf: Array) -> UInt32[Array, ""]:
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    return jnp.sum(jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32), dtype=jnp.uint32)


@jax.jit
def _bit_sums(leaves: list[Array]) -> UInt32[Array, " n"]:
    return jnp.stack([_bit_sum(leaf) for leaf in leaves])


def sums(state: State) -> dict[str, int]:
    """Returns for each array of a state the sum of its bits read as integers, modulo 2 ** 32.

    It changes with any one flipped bit, and is the same on every mesh: integers add up exactly in any order.
    """
    named = jax.tree_util.tree_leaves_with_path(state)
    found = np.asarray(_bit_sums([leaf for _, leaf in named])).tolist()
    return {jax.tree_util.keystr(path): value for (path, _), value in zip(named, found, strict=True)}


def _check_sums(state: State, expected: Mapping[str, int]) -> None:
    found = sums(state)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    if wrong:
        raise ValueError(f"{wrong[0]} differs from what was saved")


def restore_arrays(workdir: Workdir, step: int | None = None) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Returns the step, the state (numpy, as a dictionary) and the record of a checkpoint.

    Args:
      workdir: of the run.
      step: of the checkpoint; the newest sound one if None.

    Raises:
      UserError: the folder holds no checkpoint, none of that step, or none that can be read.
    """
    from orbax.checkpoint import v1 as ocp

    if not workdir.is_remote and not (workdir.local / CHECKPOINTS).is_dir():
        raise UserError(f"{workdir} has no checkpoints; train there first with `rdm train --workdir {workdir}`")
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.training.Checkpointer(workdir.checkpoints) as saver:
        steps = sorted((checkpoint.step for checkpoint in saver.checkpoints), reverse=True)
        if step is not None and step not in steps:
            raise unknown(
                "step of a checkpoint", str(step), map(str, steps), hint="a run keeps every keep_every-th one"
            )
        for tried in steps if step is None else [step]:
            try:
                stored = saver.checkpointables_metadata(tried).metadata["state"]
                target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), stored)
                items = saver.load_checkpointables(tried, {"state": target, "data": None})
                record = json.loads(items["data"]["json"])["record"]
            except Exception as error:  # Orbax raises many types for a damaged folder
                _LOG.warning("checkpoint %d cannot be read and is skipped: %s", tried, first_line(error))
                continue
            return tried, jax.device_get(items["state"]), record
    if steps:
        raise UserError(
            f"none of the checkpoints {some(map(str, steps))} in {workdir.checkpoints} can be read; train again"
        )
    raise UserError(f"{workdir} has no finished checkpoint yet; let `rdm train` save one first")
