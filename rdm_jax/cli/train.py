"""`rdm train`: trains what a config describes, resuming from the newest checkpoint of its workdir."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from typing import Any

from rdm_jax.cli.progress import Progress, format_seconds, note
from rdm_jax.core.errors import UserError

HELP = """train a model from a config

  rdm train --config configs/style_scenes/clip.py --workdir runs/clip
  rdm train --config configs/style_scenes/rdm.py --workdir runs/rdm --config.batch_size=16

The same command after a stop goes on from the newest checkpoint. Any setting of the config is an option
--config.KEY=VALUE; what a run was made with stands in WORKDIR/config.json, its metrics in WORKDIR/metrics.jsonl and
for TensorBoard in WORKDIR/tensorboard. On several machines every process runs the same command, with --distributed
where the cluster tells who they are (Slurm, TPU pods, GKE), or with the three options that say so; see launch/."""


UNTOLD = ("param_norm", "ema_decay", "seconds_per_step")  # they are in metrics.jsonl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="the config file")
    parser.add_argument("--workdir", required=True, help="the folder of the run, or its gs:// address")
    parser.add_argument("--init-from", metavar="BUNDLE", help="start from the parameters of a bundle (name or folder)")
    parser.add_argument(
        "--replace-config", action="store_true", help="go on in a workdir that was made by another config"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print sizes, FLOPs and predicted times of a step, and train nothing"
    )
    parser.add_argument(
        "--mesh", metavar="DATAxFSDP", help="of the dry run, as 32x8; the devices here by the config's own if not given"
    )
    parser.add_argument(
        "--analytic", action="store_true", help="do not compile in the dry run, even where libtpu is installed"
    )
    parser.add_argument("--distributed", action="store_true", help="join the cluster's other processes")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, where no cluster tells it")
    parser.add_argument("--processes", type=int, metavar="N", help="how many processes there are")
    parser.add_argument("--process", type=int, metavar="I", help="this process's number, from 0")
    parser.add_argument("overrides", nargs="*", metavar="--config.KEY=VALUE", help="settings that replace the config's")


def rewrite_arguments(arguments: list[str]) -> list[str]:
    """Returns the arguments with every --config.KEY=VALUE turned into the positional KEY=VALUE."""
    prefix = "--config."
    turned = []
    waiting = ""
    for argument in arguments:
        if waiting:
            turned.append(f"{waiting}={argument}")
            waiting = ""
        elif argument.startswith(prefix) and "=" not in argument:
            waiting = argument.removeprefix(prefix)
        else:
            turned.append(argument.removeprefix(prefix) if argument.startswith(prefix) else argument)
    return [*turned, waiting] if waiting else turned


def run(args: argparse.Namespace) -> None:
    """Trains, and says where the run is."""
    from rdm_jax.core import distributed
    from rdm_jax.training.config import load_config

    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of every checkpoint that one process writes alone
    unexpected = [override for override in args.overrides if "=" not in override]
    if unexpected:
        raise UserError(f"unexpected argument {unexpected[0]!r}; settings are written --config.KEY=VALUE")
    config = load_config(args.config, args.overrides)
    if args.dry_run:
        _dry_run(config, args.mesh, args.analytic)
        return
    given = args.coordinator, args.processes, args.process
    if args.distributed or any(value is not None for value in given):
        distributed.join(*given)

    from rdm_jax.training.loop import train

    speaks = distributed.is_first()
    if speaks:
        note(
            f"{config.task} {config.name!r}: {config.steps} steps of {config.batch_size}, in {args.workdir}; "
            "the first step compiles"
        )

    state = train(
        config,
        args.workdir,
        init_from=args.init_from,
        report=_Report() if speaks else lambda *_: None,
        progress=_Caches() if speaks else lambda *_: None,
        replace_config=args.replace_config,
    )
    if speaks:
        note(f"{args.workdir}: step {int(state.step)} of {config.steps}")


def _dry_run(config: Any, mesh: str | None, analytic: bool) -> None:
    import jax

    from rdm_jax.core.mesh import state_shardings
    from rdm_jax.training import dry_run
    from rdm_jax.training.loop import make_run
    from rdm_jax.training.tasks import make_abstract_task

    shape = dry_run.parse_mesh(mesh) if mesh else (max(jax.device_count() // config.mesh.fsdp, 1), config.mesh.fsdp)
    topology = None if analytic else dry_run.tpu_topology(math.prod(shape))
    if topology:
        note(f"compiling for {topology}, which may take an hour for a large model; --analytic leaves it out")
    task, batch = make_abstract_task(config)
    create, update = make_run(config, task)

    def shardings(at: Any, state: Any) -> Any:
        return state_shardings(at, state, config.mesh.rules)

    report = dry_run.dry_run(create, update, task.frozen, batch, shardings, shape, topology=topology)
    sys.stdout.write(dry_run.table(report) + "\n")


class _Caches:
    def __init__(self) -> None:
        self._shown: dict[str, Progress] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        self._shown.setdefault(what, Progress(what, unit="row"))(done, total)


class _Report:
    def __init__(self) -> None:
        self._start: tuple[int, float] | None = None

    def __call__(self, step: int, steps: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in UNTOLD)
        if self._start is None:
            self._start = (step, now)
        first, since = self._start
        left = ""
        if step > first:
            left = f", {format_seconds((now - since) / (step - first) * (steps - step))} left"
        note(f"step {step}/{steps}: {text}{left}")
