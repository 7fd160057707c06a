"""Checkpoints of a run in WORKDIR/checkpoints/<step> (Orbax): saved in the background, whole or not at all."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jax

from rdm_jax.core.errors import UserError
from rdm_jax.training.state import State, abstract_like

_LOG = logging.getLogger(__name__)


class Checkpoints:
    """Saves and restores the state together with the position in the data.

    Args:
      workdir: the run's folder.
      keep: how many of the newest checkpoints stay.
    """

    def __init__(self, workdir: Path, keep: int) -> None:
        from orbax.checkpoint import v1 as ocp

        policies: Any = ocp.training.preservation_policies
        self._saver = ocp.training.Checkpointer(
            str((workdir / "checkpoints").absolute()),
            preservation_policy=policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """The steps that are saved, the newest first."""
        return sorted((checkpoint.step for checkpoint in self._saver.checkpoints), reverse=True)

    def save(self, state: State, data_state: dict[str, Any]) -> None:
        """Starts to save the state, in place of what its step held; the arrays are copied before it returns."""
        step = int(state.step)
        items = {"state": state, "data": {"json": json.dumps(data_state)}}
        self._saver.save_checkpointables_async(step, items, force=True, overwrite=True)

    def restore(self, state: State) -> tuple[State, dict[str, Any]] | None:
        """Returns the newest readable checkpoint in the shape of `state`, None where there is none.

        An unreadable checkpoint is passed over for the one before, with a warning.

        Raises:
          UserError: there are checkpoints and none can be read.
        """
        steps = self.steps
        for step in steps:
            try:
                items = self._saver.load_checkpointables(step, {"state": abstract_like(state), "data": None})
            except Exception as error:  # Orbax raises many kinds for a damaged folder, and each means the same here
                _LOG.warning("checkpoint %d cannot be read and is passed over: %s", step, error)
                continue
            return items["state"], json.loads(items["data"]["json"])
        if steps:
            raise UserError(
                f"none of the checkpoints {steps} in {self._saver.directory} can be read; use another workdir"
            )
        return None

    def close(self) -> None:
        """Waits until the last save is on disk."""
        self._saver.close()


def restore_ema(workdir: Path) -> tuple[int, Any]:
    """Returns the step and the averaged parameters (numpy) of a run's newest checkpoint.

    Raises:
      UserError: the folder holds no checkpoint.
    """
    from orbax.checkpoint import v1 as ocp

    folder = (workdir / "checkpoints").absolute()
    if not folder.is_dir():
        raise UserError(f"{workdir} has no checkpoints; train there first with `rdm train --workdir {workdir}`")
    with ocp.training.Checkpointer(str(folder)) as saver:
        if saver.latest is None:
            raise UserError(f"{workdir} has no finished checkpoint yet; let `rdm train` save one first")
        step = saver.latest.step
        stored = saver.checkpointables_metadata(step).metadata["state"]
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), stored)
        state = saver.load_checkpointables(step, {"state": target})["state"]
    return step, jax.device_get(state["ema"])
