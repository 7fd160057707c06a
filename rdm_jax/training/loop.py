"""The training loop, from a configuration to checkpoints, as one linear function."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import rdm_jax
from rdm_jax import models
from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.core.distributed import first_then_others, is_first
from rdm_jax.core.errors import UserError, some
from rdm_jax.core.mesh import batch_sharding, make_mesh, on_host, put_batch, put_whole
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import training_batches
from rdm_jax.training import flops, hardware, power_averages
from rdm_jax.training.checkpoints import Checkpoints
from rdm_jax.training.claim import claimed
from rdm_jax.training.config import Config
from rdm_jax.training.evaluators import Evaluators
from rdm_jax.training.export import write_record
from rdm_jax.training.identity import check_record, claim_workdir, settings_hash
from rdm_jax.training.metrics import EVALUATION, Log, Meter, MetricsCallback, Profile
from rdm_jax.training.state import State
from rdm_jax.training.step import (
    Update,
    create_state,
    ema_decay,
    hold_frozen,
    initial_state,
    learning_rate,
    make_optimizer,
    make_train_step,
    make_update,
    step_in_stage,
    with_params,
)
from rdm_jax.training.stopping import Stopping
from rdm_jax.training.tasks import make_task
from rdm_jax.training.tasks.base import Task
from rdm_jax.training.watch import Watch
from rdm_jax.training.workdir import Workdir

_LOG = logging.getLogger(__name__)


def train(
    config: Config,
    workdir: Path | str,
    *,
    init_from: str | None,
    report: MetricsCallback,
    progress: StageProgressCallback,
    replace_config: bool = False,
) -> State:
    """Trains what the configuration describes, from the newest checkpoint in `workdir` or from the start.

    Args:
      config: the run's configuration (see configs/).
      workdir: the run's folder or address: config.json, metrics.jsonl, checkpoints/, tensorboard/, figures/.
      init_from: a bundle whose parts the parameters start from if the run has no checkpoint yet.
      report: called with (step, steps, metrics) at every logged step.
      progress: called with (stage, done, total) while caches are filled.
      replace_config: continue even if the workdir has another configuration.

    Returns:
      the last state; on SIGTERM it is saved and returned early.

    Raises:
      UserError: another process trains in the workdir, it belongs to another configuration or cannot be written, the
        batch size is not a multiple of the number of devices, the loss is not finite, or the disk is full.
      KeyboardInterrupt: Ctrl-C was pressed; after the first time the state is saved.
    """
    place = Workdir(workdir)
    with (
        claimed(place) as claim,
        Checkpoints(place, config.keep_checkpoints, config.keep_every) as checkpoints,
        Watch(place, config.process_timeout),
        Stopping() as stop,
        contextlib.ExitStack() as opened,
    ):
        # 1. From its first checkpoint on, the workdir belongs to one configuration.
        claim_workdir(place, config, begun=bool(checkpoints.steps) and not replace_config)

        # 2. Data, parameters, optimizer: initialized on the mesh.
        mesh = make_mesh(config.mesh.fsdp)
        check_batch(config)
        start = Bundle.open(init_from) if init_from and not checkpoints.steps else None
        task = first_then_others(lambda: make_task(config, place.local, progress, start))
        evaluators = Evaluators.of(config, task)
        if is_first():
            write_record(place, task.model)
        batches = training_batches(task.read, task.size, config.batch_size, config.seed, config.threads, task.complete)
        state, train_step = make_on(mesh, config, task)
        frozen, sharding = put_whole(task.frozen, mesh), batch_sharding(mesh)

        # 3. Resume, or start from a bundle's parts, or from the initialization.
        checkpoints.check_space(state)
        record = {} if replace_config else task.record
        state = resume(state, batches, checkpoints, place, record, start, partial=config.init_partial)

        averages = power_averages.begin(task.averaged(state.params)) if config.snapshot_every else ()
        if averages and int(state.step):
            averages = checkpoints.restore_averages(int(state.step), averages)

        # 4. The loop. A step is dispatched to the devices before the metrics of the previous one are read.
        first, last = int(state.step) + 1, config.steps
        begins = [1, *(1 + steps for steps in itertools.accumulate(task.stages[:-1]))]
        record = {"seed": config.seed, "config": settings_hash(config), "version": rdm_jax.__version__, **task.record}
        log = opened.enter_context(Log(place, config, first, report))
        running, profile = _Running(), Profile(config, place, first)
        stop.catch()
        meter: Meter | None = None
        for step in range(first, last + 1):
            if step in begins:
                state = task.begin_stage(state, begins.index(step))
            due = functools.partial(_due, step, last)
            begin = time.perf_counter()
            batch = put_batch(next(batches), sharding)
            waited = time.perf_counter() - begin
            profile.before(step)
            state, metrics = train_step(state, frozen, batch)
            averages = averages and power_averages.advance(averages, task.averaged(state.params), jnp.float32(step))
            running.check_last()
            running.started(step, metrics)
            if meter:
                meter.step(waited)
            else:  # the first step compiles, and is not timed
                meter = _meter(config, train_step.trace(state, frozen, batch).jaxpr)
            profile.after(step, metrics)
            if due(config.log_every):
                claim.check()
                log.metrics(step, running.check_last() | _rates(config, task, step) | meter.read())
            if due(config.eval_every) or due(config.figures_every):
                evaluate(config, task, evaluators, on_host(state.ema, mesh), log, step)
                meter.restart()
            if due(config.snapshot_every):
                running.check_last()
                snapshot(place, averages, mesh, step)
            stopping = stop.due(step)
            if due(config.checkpoint_every) or stopping:
                running.check_last()  # parameters that are not finite are never saved
                claim.check()
                checkpoints.save(state, batches.get_state(), record, averages)
            if stopping:
                break
        checkpoints.close()
        if stop.requested:
            _log_once("stopped by a signal: saved step %d; the same command resumes there", int(state.step))
        if stop.interrupted:
            raise KeyboardInterrupt
    return state


def _log_once(text: str, *values: Any) -> None:
    """Logs a line that is the same in all processes in one of them."""
    _LOG.log(logging.INFO if is_first() else logging.DEBUG, text, *values)


def _due(step: int, last: int, every: int) -> bool:
    return bool(every) and (step % every == 0 or step == last)


def _rates(config: Config, task: Task, step: int) -> dict[str, float]:
    rate = learning_rate(config.optimizer, *task.stages)(step - 1)
    decay = ema_decay(step_in_stage(step, task.stages), config.ema_decay)
    return {"learning_rate": float(jnp.asarray(rate)), "ema_decay": float(decay)}


def make_run(config: Config, task: Task) -> tuple[Callable[[], State], Update]:
    """Returns the function that makes the state of step 0, and the update; neither is compiled or run."""
    tx = make_optimizer(config.optimizer, *task.stages)
    update = make_update(
        hold_frozen(task.loss, config.optimizer.frozen),
        tx,
        config.ema_decay,
        config.seed,
        averaged=task.averaged,
        accumulate=config.accumulate,
        stages=task.stages,
    )
    return functools.partial(initial_state, task.init, tx, config.seed, task.averaged), update


def make_on(mesh: Mesh, config: Config, task: Task) -> tuple[State, Any]:
    """Returns the state of step 0, initialized on the mesh, and the train step, which compiles in its first call."""
    create, update = make_run(config, task)
    options = config.compiler_options.to_dict()
    return create_state(create, mesh, config.mesh.rules, options), make_train_step(update, mesh, options)


def resume(
    state: State,
    batches: grain.DatasetIterator,
    checkpoints: Checkpoints,
    place: Workdir,
    record: Mapping[str, str],
    start: Bundle | None,
    *,
    partial: bool = False,
) -> State:
    """Returns the state that a run continues from, and moves its batches there.

    Args:
      state: of step 0; returned if there is nothing else.
      batches: at their beginning.
      checkpoints: the newest one comes first of all.
      place: their workdir.
      record: what the newest one must be made from.
      start: the bundle that the run starts from if it has no checkpoint.
      partial: take what fits of that bundle (see `matching_parts`).

    Raises:
      UserError: no checkpoint can be read, the newest has another record, or the bundle does not fit.
    """
    restored = checkpoints.restore(state)
    if not restored:
        return with_params(state, matching_parts(start, state.params, partial=partial)) if start else state
    state, data_state, before = restored
    check_record(place, before, record)
    batches.set_state(data_state)
    _log_once("resumed at step %d", int(state.step))
    return state


def snapshot(place: Workdir, averages: tuple[Any, ...], mesh: Mesh, step: int) -> None:
    """Writes the power-function averages of a step, in one process."""
    whole = on_host(averages, mesh)
    if is_first():
        power_averages.write_snapshot(place, whole, step)


def evaluate(config: Config, task: Task, evaluators: Evaluators, params: Any, log: Log, step: int) -> None:
    """Logs what is due after a step: values on held-out data and figures, with averaged parameters."""
    if _due(step, config.steps, config.eval_every):
        log.metrics(step, {f"{EVALUATION}{name}": float(value) for name, value in evaluators.measure(task, params)})
    if _due(step, config.steps, config.figures_every):
        for name, figure in task.figures(params):
            log.figure(step, name, figure)


def check_batch(config: Config) -> None:
    """Raises UserError unless every device gets the same number of examples, in every part of a batch."""
    devices = jax.device_count()
    if config.batch_size % (devices * config.accumulate):
        parts = f" in accumulate={config.accumulate} parts" if config.accumulate > 1 else ""
        raise UserError(
            f"batch_size={config.batch_size} is not divisible by the {devices} devices{parts}; choose a multiple of "
            f"{devices * config.accumulate}"
        )


def matching_parts(bundle: Bundle, params: dict[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """Returns `params` with the bundle's parts in place of the initialized ones.

    Args:
      bundle: the bundle to start from.
      params: fresh parameters, {part: tree}.
      partial: take the parameters that have the same name and shape, and leave the others fresh.

    Raises:
      UserError: the bundle holds none of the parts; without `partial`, a parameter is missing or of another shape.
    """
    common = [part for part in params if bundle.has(part)]
    if not common:
        raise UserError(
            f"--init-from {bundle.name}: it has {some(bundle.params)}, and this run trains "
            f"{', '.join(params)}; give a bundle with one of these parts"
        )
    joined = dict(params)
    for part in common:
        have, want = trees.flatten(bundle.params[part]), trees.flatten(params[part])
        fits = [name for name in want if name in have and have[name].shape == want[name].shape]
        wrong = sorted(have.keys() ^ want.keys() | want.keys() - set(fits))
        if kinds := models.other_backbone(have, want):
            raise UserError(
                f"--init-from {bundle.name}: its {part} is a {kinds[0]}, and this run trains a {kinds[1]}; "
                f"set --config.model.kind={kinds[0]} or give a bundle with a {kinds[1]}"
            )
        if wrong and not partial:
            raise UserError(
                f"--init-from {bundle.name}: {part} differs in {len(wrong)} parameters ({wrong[0]}, ...); "
                "use the config that it was trained with, or --config.init_partial=true"
            )
        joined[part] = trees.unflatten({**want, **{name: have[name] for name in fits}})
    return joined


class _Running:
    """The metrics of the step in progress."""

    def __init__(self) -> None:
        self._step, self._metrics = 0, {}

    def started(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of a step that was dispatched."""
        self._step, self._metrics = step, metrics

    def check_last(self) -> dict[str, float]:
        """Waits for that step and returns its metrics.

        Raises:
          UserError: one of them is not finite.
        """
        values = {name: float(value) for name, value in jax.device_get(self._metrics).items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"{some(bad)} is not finite at step {self._step}; the last checkpoint is kept: lower "
                "--config.optimizer.learning_rate and start again from it"
            )
        return values


def _meter(config: Config, jaxpr: Any) -> Meter:
    chip = hardware.chip_of(jax.devices()[0])
    work = flops.count_jaxpr(flops.live(jaxpr)).flops
    return Meter(config.batch_size, jax.device_count(), work, chip.bfloat16 if chip else None)
