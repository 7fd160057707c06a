"""`rdm train`: trains what a config describes, resuming from the newest checkpoint of its workdir."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.progress import Progress, format_seconds, note
from rdm_jax.core.errors import UserError
from rdm_jax.core.numbers import plain

if TYPE_CHECKING:
    from rdm_jax.training.dry_run import CostReport

HELP = """train a model from a config

  rdm train --list-configs
  rdm train --config style_scenes/clip --workdir runs/clip
  rdm train --config mine.py --workdir runs/mine --config.batch_size=16

The same command after a stop resumes from the newest checkpoint. Every setting of the config is an option
--config.KEY=VALUE. The workdir holds the run's config.json, its metrics.jsonl and, for TensorBoard, tensorboard/. On
several machines every process runs the same command, with --distributed where the cluster identifies the processes
(Slurm, TPU pods, GKE), otherwise with the three options that do; see launch/."""


NOT_PRINTED = ("param_norm", "ema_decay", "seconds_per_step")  # they are in metrics.jsonl
FIRST = ("loss", "eval/loss")
LETTERS = 400  # of the metrics in a line; all of them are in metrics.jsonl
INTERRUPTED = 130  # the exit status, as of `cli.main`
NAME_LETTERS = 60  # of a metric's name there, which may hold a name from the data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("--config", metavar="NAME[:ARG]", help="a shipped config, or a file, as mine.py")
    parser.add_argument("--list-configs", action="store_true", help="print the shipped configs")
    parser.add_argument("--workdir", help="the folder of the run, or its gs:// address")
    parser.add_argument(
        "--init-from", metavar="BUNDLE", help="start from the parameters of a bundle: NAME|DIR|hf://..."
    )
    parser.add_argument("--replace-config", action="store_true", help="continue in a workdir of another config")
    parser.add_argument(
        "--dry-run", action="store_true", help="print sizes, FLOPs and predicted times of a step; train nothing"
    )
    parser.add_argument(
        "--mesh", metavar="DATAxFSDP", help="of the dry run, as 32x8; by default the devices here and the config's fsdp"
    )
    parser.add_argument(
        "--analytic", action="store_true", help="do not compile in the dry run, even if libtpu is installed"
    )
    parser.add_argument("--distributed", action="store_true", help="join the cluster's other processes")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where there is no cluster")
    parser.add_argument("--processes", type=int, metavar="N", help="how many processes there are")
    parser.add_argument("--process", type=int, metavar="I", help="this process's number, from 0")
    parser.add_argument("overrides", nargs="*", metavar="--config.KEY=VALUE", help="settings in place of the config's")


def rewrite_arguments(arguments: list[str]) -> list[str]:
    """Returns the arguments with every --config.KEY=VALUE, wherever it is, as the positional KEY=VALUE at the end."""
    prefix = "--config."
    others, settings, key = [], [], ""
    for argument in arguments:
        if key:
            settings.append(f"{key}={argument}")
            key = ""
        elif argument.startswith(prefix) and "=" not in argument:
            key = argument.removeprefix(prefix)
        else:
            (settings if argument.startswith(prefix) else others).append(argument.removeprefix(prefix))
    return [*others, *settings, *([key] if key else [])]


def run(args: argparse.Namespace) -> None:
    """Trains, and prints where the run is."""
    from rdm_jax.core import distributed
    from rdm_jax.training.config import load_config

    if args.list_configs:
        sys.stdout.write(_listed())
        return
    for name in ("config", "workdir"):
        if not getattr(args, name):
            raise UserError(f"--{name} is missing; --list-configs prints the shipped configs")
    unexpected = [override for override in args.overrides if "=" not in override]
    if unexpected:
        raise UserError(f"unexpected argument {unexpected[0]!r}; settings are written --config.KEY=VALUE")
    config = load_config(args.config, args.overrides)
    if args.dry_run:
        from rdm_jax.training.dry_run import table

        sys.stdout.write(table(cost_report(config, args.mesh, args.analytic)) + "\n")
        return
    cluster = args.coordinator, args.processes, args.process
    if args.distributed or any(value is not None for value in cluster):
        distributed.join(*cluster)
    train_in(args.workdir, config, init_from=args.init_from, replace_config=args.replace_config)


def train_in(workdir: str, config: Any, *, init_from: str | None = None, replace_config: bool = False) -> int:
    """Trains in a folder, prints where the run is, and returns the step at which it ends.

    Args:
      workdir: the run's folder or address.
      config: from `load_config`.
      init_from: a bundle whose parts the parameters start from.
      replace_config: continue even if the folder has another configuration.

    Raises:
      UserError: as `training.loop.train` does.
    """
    from rdm_jax.core import distributed
    from rdm_jax.training.loop import train
    from rdm_jax.training.stopping import StoppedAtOnce

    quiet_orbax()
    first = distributed.is_first()
    if first:
        note(
            f"{config.task} {config.name!r}: {config.steps} steps of {config.batch_size}, in {workdir}; "
            "the first step compiles"
        )
    try:
        state = train(
            config,
            workdir,
            init_from=init_from,
            report=_StepPrinter() if first else lambda *_: None,
            progress=_CachePrinter() if first else lambda *_: None,
            replace_config=replace_config,
        )
    except StoppedAtOnce:
        note("interrupted")
        os._exit(INTERRUPTED)  # without waiting for the checkpoint that is being written in the background
    if first:
        note(f"{workdir}: step {int(state.step)} of {config.steps}")
    return int(state.step)


def quiet_orbax() -> None:
    """Silences Orbax's log, which has a traceback for each error that it also raises, unless --debug is given."""
    debug = logging.getLogger("rdm_jax").level <= logging.DEBUG
    logging.getLogger("absl").setLevel(logging.ERROR if debug else logging.CRITICAL)


def _listed() -> str:
    """Returns the names of the shipped configs, each with what it is."""
    from rdm_jax.training.config import shipped_configs

    configs = shipped_configs()
    width = max(map(len, configs))
    return "".join(f"{name:{width}}  {line}\n" for name, line in configs.items())


def cost_report(config: Any, mesh: str | None, analytic: bool) -> CostReport:
    """Returns what a step of a config costs, from shapes alone.

    Args:
      config: from `load_config`.
      mesh: "DATAxFSDP"; None takes the devices here and the config's `fsdp`.
      analytic: do not compile, even if libtpu is installed.

    Raises:
      UserError: the task has no dry run, or `mesh` does not fit the batch.
    """
    import jax

    from rdm_jax.core.mesh import state_shardings
    from rdm_jax.training import dry_run
    from rdm_jax.training.loop import make_run
    from rdm_jax.training.tasks import make_abstract_task

    shape = dry_run.parse_mesh(mesh) if mesh else (max(jax.device_count() // config.mesh.fsdp, 1), config.mesh.fsdp)
    topology = None if analytic else dry_run.tpu_topology(math.prod(shape))
    if topology:
        note(f"compiling for {topology}, which may take an hour for a large model; --analytic skips it")
    task, batch = make_abstract_task(config)
    create, update = make_run(config, task)

    def shardings(at: Any, state: Any) -> Any:
        return state_shardings(at, state, config.mesh.rules)

    return dry_run.dry_run(create, update, task.frozen, batch, shardings, shape, topology=topology)


class _CachePrinter:
    def __init__(self) -> None:
        self._shown: dict[str, Progress] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        self._shown.setdefault(what, Progress(what, unit="row"))(done, total)


class _StepPrinter:
    def __init__(self) -> None:
        self._start: tuple[int, float] | None = None

    def __call__(self, step: int, steps: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        if self._start is None:
            self._start = (step, now)
        first, since = self._start
        left = ""
        if step > first:
            left = f", {format_seconds((now - since) / (step - first) * (steps - step))} left"
        note(f"step {step}/{steps}: {metrics_text(values)}{left}")


def metrics_text(values: Mapping[str, float]) -> str:
    """Returns metrics in one line of bounded length: the loss first, those of single classes or attributes last."""
    names = [name for name in values if name not in NOT_PRINTED]
    names.sort(key=lambda name: (name not in FIRST, name.count("/")))
    shown, length = [], 0
    for name in names:
        short = name if len(name) <= NAME_LETTERS else name[:NAME_LETTERS] + "..."
        text = f"{short} {plain(values[name])}"
        length += len(text) + 2
        if length > LETTERS:
            break
        shown.append(text)
    more = len(names) - len(shown)
    return ", ".join(shown) + (f", {more} more in metrics.jsonl" if more else "")
