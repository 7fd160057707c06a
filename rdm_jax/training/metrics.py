"""A run's metrics: JSON lines, TensorBoard, Weights & Biases, its speed, and profiles."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from rdm_jax.core import images
from rdm_jax.core.distributed import is_first
from rdm_jax.core.errors import UserError
from rdm_jax.training.board import Board
from rdm_jax.training.config import Config
from rdm_jax.training.workdir import METRICS, Workdir

_LOG = logging.getLogger(__name__)

EVALUATION = "eval/"  # before the name of a metric of an evaluation
TENSORBOARD = "tensorboard"
FIGURES = "figures"

MetricsCallback = Callable[[int, int, dict[str, float]], None]
"""Called with (step, steps, metrics)."""


class Meter:
    """Times steps between two readings.

    Args:
      batch_size: examples in a global batch.
      devices: in all processes.
      flops: of one step on all devices, 0 if unknown.
      peak: FLOP/s of one device, None if unknown.
    """

    def __init__(self, batch_size: int, devices: int, flops: float = 0.0, peak: float | None = None) -> None:
        self._batch_size, self._devices, self._flops, self._peak = batch_size, devices, flops, peak
        self.restart()

    def restart(self) -> None:
        """Starts a new reading."""
        self._begin = time.perf_counter()
        self._waited = 0.0
        self._steps = 0

    def step(self, waited: float) -> None:
        """Counts a step that waited for its batch for some seconds."""
        self._steps += 1
        self._waited += waited

    def read(self) -> dict[str, float]:
        """Returns the speed since the last reading, and starts a new one; nothing if there was no step.

        It is seconds for each step, images per second, the fraction of the time spent waiting for input, TFLOP/s of a
        device, and their fraction of the peak.
        """
        seconds, steps = time.perf_counter() - self._begin, self._steps
        if not steps:
            return {}
        values = {
            "seconds_per_step": seconds / steps,
            "images_per_second": self._batch_size * steps / seconds,
            "input_fraction": self._waited / seconds,
        }
        rate = self._flops * steps / seconds / self._devices
        if self._flops:
            values["tflops_per_device"] = rate / 1e12
        if self._flops and self._peak:
            values["peak_fraction"] = rate / self._peak
        self.restart()
        return values


class Log:
    """Writes metrics and figures of the first process; the other processes' calls only report.

    Args:
      workdir: gets metrics.jsonl, tensorboard/ and figures/.
      config: of the run; `wandb` is a project's name, or empty for none.
      first: the next step; lines of it and of later ones, written before a kill, are removed.
      report: called with all metrics, in every process.

    Raises:
      UserError: `wandb` is set and not installed.
    """

    def __init__(self, workdir: Workdir, config: Config, first: int, report: MetricsCallback) -> None:
        self._workdir, self._steps, self._report = workdir, config.steps, report
        self._board: Board | None = None
        self._wandb = None
        if not is_first():
            return
        if config.wandb:  # first: without the library nothing is opened
            self._wandb = _wandb_run(config, workdir)
        workdir.write(METRICS, _before(workdir.read(METRICS) or b"", first))
        with workdir.writing(TENSORBOARD):
            self._board = Board(workdir.local / TENSORBOARD, first)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(*(() if kind is None else (UserError,))):  # of two errors the first one counts
            self.close()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Writes and reports values of a step."""
        if is_first():
            self._write(step, values)
        self._report(step, self._steps, values)

    def figure(self, step: int, name: str, figure: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes an image of a step as figures/NAME-STEP.png."""
        if not is_first():
            return
        self._workdir.write(f"{FIGURES}/{name}-{step:08d}.png", images.encode(figure))
        with self._writing_board() as board:
            board.image(step, name, figure)

    def close(self) -> None:
        """Writes what is still open."""
        if self._board:
            with self._workdir.writing(TENSORBOARD):
                self._board.close()
        if self._wandb:
            self._wandb.finish()

    def _write(self, step: int, values: dict[str, float]) -> None:
        self._workdir.append(METRICS, {"step": step, **values})
        with self._writing_board() as board:
            for name, value in values.items():
                board.scalar(step, name, value)
        if self._wandb:
            self._wandb.log(dict(values), step=step)

    @contextlib.contextmanager
    def _writing_board(self) -> Iterator[Board]:
        """Yields the board, and writes what the block adds to it."""
        assert self._board is not None  # of the first process, which alone writes
        with self._workdir.writing(TENSORBOARD):
            yield self._board
            self._board.flush()
            if self._workdir.is_remote:
                for file in (self._workdir.local / TENSORBOARD).iterdir():
                    self._workdir.publish(f"{TENSORBOARD}/{file.name}")


class Profile:
    """Traces the steps of `config.profile`, counted from the first one of this start."""

    def __init__(self, config: Config, workdir: Workdir, first: int) -> None:
        begin = first + config.profile.start
        self._steps = range(begin, begin + config.profile.steps) if is_first() else range(0)
        self._folder = str(workdir.local / "profile")

    def before(self, step: int) -> None:
        """Starts the trace with its first step."""
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._folder)

    def after(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Ends the trace with its last step."""
        if self._steps and step == self._steps[-1]:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            _LOG.info("the profile of steps %d to %d is in %s", self._steps[0], step, self._folder)


def last_evaluation(workdir: Workdir, step: int) -> dict[str, Any]:
    """Returns "results", the values of a run's newest evaluation at a step or before, and "measured_at", its step.

    Empty where there was none.
    """
    for line in reversed(_before(workdir.read(METRICS) or b"", step + 1).split(b"\n")[:-1]):
        values: dict[str, Any] = json.loads(line)
        results = {
            name.removeprefix(EVALUATION): value for name, value in values.items() if name.startswith(EVALUATION)
        }
        finite = {name: value for name, value in results.items() if isinstance(value, float) and math.isfinite(value)}
        if finite:
            return {"results": finite, "measured_at": values["step"]}
    return {}


def _before(data: bytes, first: int) -> bytes:
    """Returns the lines of steps before one; a line that a kill cut short is left out."""
    return b"".join(line + b"\n" for line in data.split(b"\n") if _step_of(line) < first)


def _step_of(line: bytes) -> float:
    """Returns the step of a line of metrics, infinity where it has none."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _wandb_run(config: Config, workdir: Workdir) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"wandb={config.wandb} needs Weights & Biases; pip install rdm_jax[wandb]") from error
    # The same folder is the same run: it resumes.
    return wandb.init(
        project=config.wandb,
        id=workdir.run_id,
        name=config.name,
        config=config.to_dict(),
        dir=workdir.local,
        resume="allow",
    )
