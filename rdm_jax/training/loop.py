"""The training run, from a configuration to checkpoints, as one linear function."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from rdm_jax.bundle import Bundle
from rdm_jax.core import files, trees
from rdm_jax.core.errors import UserError
from rdm_jax.core.mesh import batch_sharding, make_mesh, put_batch
from rdm_jax.data.batches import training_batches
from rdm_jax.training.checkpoints import Checkpoints
from rdm_jax.training.config import Config
from rdm_jax.training.state import State
from rdm_jax.training.step import create_state, hold_frozen, make_optimizer, make_train_step, with_params
from rdm_jax.training.tasks import make_task

_LOG = logging.getLogger(__name__)

Report = Callable[[int, int, dict[str, float]], None]


def train(
    config: Config, workdir: Path, *, init_from: str | None, report: Report, progress: Callable[[str, int, int], None]
) -> State:
    """Trains what the configuration says, from the newest checkpoint in `workdir` or from the start.

    Args:
      config: the run's configuration (see configs/).
      workdir: the run's folder: config.json, metrics.jsonl, checkpoints/.
      init_from: a bundle whose parts the parameters start from where the run has no checkpoint yet.
      report: called with (step, steps, metrics) at every logged step.
      progress: called with (what, done, total) while caches are filled.

    Returns:
      the last state. On SIGTERM it is saved and returned early.

    Raises:
      UserError: the workdir holds another configuration or cannot be written, or the loss is no longer finite.
    """
    # 1. The workdir belongs to one configuration, from its first checkpoint on.
    make_workdir(workdir)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    claim_workdir(workdir, config, begun=bool(checkpoints.steps))

    # 2. Data, parameters, optimizer: born on the mesh.
    mesh = make_mesh(config.mesh.fsdp)
    start = Bundle.open(init_from) if init_from and not checkpoints.steps else None
    task = make_task(config, workdir, progress, start)
    batches = training_batches(task.read, task.size, config.batch_size, config.seed)
    tx = make_optimizer(config.optimizer, config.steps)
    state = create_state(task.init, tx, config.seed, mesh)
    loss = hold_frozen(task.loss, config.optimizer.frozen)
    train_step = make_train_step(loss, tx, config.ema_decay, config.seed, mesh)
    evaluate = _Evaluation(task, workdir)

    # 3. Resume, or start from a bundle's parts, or from nothing.
    restored = checkpoints.restore(state)
    if restored:
        state, data_state = restored
        batches.set_state(data_state)
        _LOG.info("resumed at step %d", int(state.step))
    elif start:
        state = with_params(state, matching_parts(start, state.params))

    # 4. The loop.
    stop = _stop_on_sigterm()
    sharding = batch_sharding(mesh)
    clock = time.monotonic()
    metrics: dict[str, Any] = {}
    for step in range(int(state.step) + 1, config.steps + 1):
        jax.block_until_ready(metrics)  # one step in flight: a signal is heard soon, and batches do not pile up
        state, metrics = train_step(state, put_batch(next(batches), sharding))
        if step % config.log_every == 0 or step == config.steps:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            now = time.monotonic()
            values["seconds"] = now - clock
            clock = now
            _log(workdir, step, values)
            report(step, config.steps, values)
            _check_finite(step, values)
        if config.eval_every and (step % config.eval_every == 0 or step == config.steps):
            report(step, config.steps, evaluate(step, state.ema))
        if step % config.checkpoint_every == 0 or step == config.steps or stop.is_set():
            checkpoints.save(state, batches.get_state())
        if stop.is_set():
            _LOG.warning("asked to stop: saved step %d; the same command goes on from there", step)
            break
    checkpoints.close()
    return state


def make_workdir(workdir: Path) -> None:
    """Makes the run's folder where there is none.

    Raises:
      UserError: it cannot be made.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(workdir, error) from error


def claim_workdir(workdir: Path, config: Config, *, begun: bool) -> None:
    """Writes the configuration into the workdir; a run that has begun keeps the one that is there.

    How long and how often (`steps`, `*_every`, `keep_checkpoints`) may change between runs of one workdir.

    Args:
      workdir: the run's folder.
      config: its configuration.
      begun: whether the run has checkpoints; before the first one another configuration may take its place.

    Raises:
      UserError: the workdir holds another configuration, or cannot be written.
    """
    file = workdir / "config.json"
    settings = json.loads(config.to_json_best_effort())
    try:
        if begun and file.exists():
            changed = [
                name
                for name in _differences(json.loads(file.read_text()), settings)
                if name != "steps" and not name.endswith("_every") and name != "keep_checkpoints"
            ]
            if changed:
                raise UserError(
                    f"{workdir} belongs to a run with another config (it differs in {', '.join(changed)}); "
                    "use another --workdir, or the config that it was made with"
                )
        files.write_json(file, settings)
    except OSError as error:
        raise _unwritable(workdir, error) from error


def _unwritable(workdir: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {workdir}: {error.strerror}; choose a --workdir that can be written")


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    flat_old, flat_new = trees.flatten(old), trees.flatten(new)
    missing = object()
    names = sorted(flat_old.keys() | flat_new.keys())
    return [n.replace("/", ".") for n in names if flat_old.get(n, missing) != flat_new.get(n, missing)]


def matching_parts(bundle: Bundle, params: dict[str, Any]) -> dict[str, Any]:
    """Returns `params` with the parts that the bundle holds in place of the fresh ones.

    Raises:
      UserError: the bundle holds none of the parts, or one of another shape.
    """
    shared = [part for part in params if bundle.has(part)]
    if not shared:
        raise UserError(
            f"--init-from {bundle.name}: it holds {', '.join(bundle.params)}, and this run trains "
            f"{', '.join(params)}; give a bundle that shares a part"
        )
    for part in shared:
        have = {name: leaf.shape for name, leaf in trees.flatten(bundle.params[part]).items()}
        want = {name: leaf.shape for name, leaf in trees.flatten(params[part]).items()}
        wrong = sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))
        if wrong:
            raise UserError(
                f"--init-from {bundle.name}: {part} differs in {len(wrong)} parameters ({wrong[0]}, ...); "
                "use the config that it was trained with"
            )
    return {**params, **{part: bundle.params[part] for part in shared}}


class _Evaluation:
    def __init__(self, task: Any, workdir: Path) -> None:
        self._task, self._workdir = task, workdir

    def __call__(self, step: int, params: Any) -> dict[str, float]:
        values = {f"eval/{name}": float(value) for name, value in self._task.evaluate(params)}
        _log(self._workdir, step, values)
        return values


def _log(workdir: Path, step: int, values: dict[str, float]) -> None:
    if jax.process_index() == 0:
        with open(workdir / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def _check_finite(step: int, values: dict[str, float]) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"{', '.join(bad)} is not finite at step {step}; the last checkpoint is kept: lower "
            "--config.optimizer.learning_rate and start again from it"
        )


def _stop_on_sigterm() -> threading.Event:
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop
