"""What a run tells of itself: JSON lines, TensorBoard, Weights & Biases, and how fast it is."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core import images
from rdm_jax.core.distributed import is_first
from rdm_jax.core.errors import UserError
from rdm_jax.training.config import Config
from rdm_jax.training.workdir import METRICS, Workdir

TENSORBOARD = "tensorboard"
FIGURES = "figures"


class Meter:
    """Times steps between two readings.

    Args:
      batch_size: examples in a global batch.
      devices: in all processes.
      flops: of one step on all devices, 0 where they are not known.
      peak: FLOP/s that one device can do, None where they are not known.
    """

    def __init__(self, batch_size: int, devices: int, flops: float = 0.0, peak: float | None = None) -> None:
        self._batch_size, self._devices, self._flops, self._peak = batch_size, devices, flops, peak
        self.restart()

    def restart(self) -> None:
        """Starts to count anew."""
        self._begin = time.perf_counter()
        self._waited = 0.0
        self._steps = 0

    def step(self, waited: float) -> None:
        """Counts a step that waited so many seconds for its batch."""
        self._steps += 1
        self._waited += waited

    def read(self) -> dict[str, float]:
        """Returns seconds a step, images a second, the share of the time that was spent waiting for input, TFLOP/s a
        device and their share of the peak, since the last reading, and starts anew; nothing if there was no step."""
        seconds, steps = time.perf_counter() - self._begin, self._steps
        if not steps:
            return {}
        values = {
            "seconds_per_step": seconds / steps,
            "images_per_second": self._batch_size * steps / seconds,
            "input_share": self._waited / seconds,
        }
        rate = self._flops * steps / seconds / self._devices
        if self._flops:
            values["tflops_per_device"] = rate / 1e12
        if self._flops and self._peak:
            values["share_of_peak"] = rate / self._peak
        self.restart()
        return values


class Log:
    """Writes metrics and figures of the first process; the other processes' calls do nothing.

    Args:
      workdir: gets metrics.jsonl, tensorboard/ and figures/.
      config: of the run; `wandb` is a project's name, or empty for none.
      first: the step that comes next; what was written of it and later ones, before a kill, is taken back.

    Raises:
      UserError: `wandb` is asked for and not installed.
    """

    def __init__(self, workdir: Workdir, config: Config, first: int = 1) -> None:
        self._workdir = workdir
        self._board: Any = None
        self._wandb = None
        if not is_first():
            return
        from tensorboardX import SummaryWriter

        workdir.write(METRICS, _before(workdir.read(METRICS) or b"", first))
        self._board = SummaryWriter(str(workdir.local / TENSORBOARD), purge_step=first)
        if config.wandb:
            self._wandb = _wandb_run(config, workdir)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values of a step."""
        if not is_first():
            return
        self._workdir.append(METRICS, {"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._flush()
        if self._wandb:
            self._wandb.log(dict(values), step=step)

    def figure(self, step: int, name: str, figure: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes a picture of a step as figures/NAME-STEP.png."""
        if not is_first():
            return
        self._workdir.write(f"{FIGURES}/{name}-{step:08d}.png", images.encode(figure))
        self._board.add_image(name, figure, step, dataformats="HWC")
        self._flush()

    def close(self) -> None:
        """Writes what is still open."""
        if self._board:
            self._board.close()
        if self._wandb:
            self._wandb.finish()

    def _flush(self) -> None:
        self._board.flush()
        if self._workdir.is_remote:
            for file in (self._workdir.local / TENSORBOARD).iterdir():
                self._workdir.publish(str(Path(TENSORBOARD) / file.name))


def _before(lines: bytes, first: int) -> bytes:
    """Returns the lines of steps before one; a line that a kill cut short is none."""
    kept = []
    for line in lines.splitlines(keepends=True):
        try:
            kept += [line] if json.loads(line)["step"] < first else []
        except ValueError:
            continue
    return b"".join(kept)


def _wandb_run(config: Config, workdir: Workdir) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"wandb={config.wandb} needs Weights & Biases; pip install rdm_jax[wandb]") from error
    # The same folder is the same run: it goes on where it stopped.
    return wandb.init(
        project=config.wandb,
        id=workdir.run_id,
        name=config.name,
        config=config.to_dict(),
        dir=workdir.local,
        resume="allow",
    )
