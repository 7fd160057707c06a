"""`rdm train`: trains what a config describes, resuming from the newest checkpoint of its workdir."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from rdm_jax.cli.progress import Progress, format_seconds, note
from rdm_jax.core.errors import UserError

HELP = """train a model from a config

  rdm train --config configs/style_scenes/clip.py --workdir runs/clip
  rdm train --config configs/style_scenes/rdm.py --workdir runs/rdm --config.batch_size=16

The same command after a stop goes on from the newest checkpoint. Any setting of the config is an option
--config.KEY=VALUE; what a run was made with stands in WORKDIR/config.json, its metrics in WORKDIR/metrics.jsonl."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="the config file")
    parser.add_argument("--workdir", required=True, type=Path, help="the folder of the run")
    parser.add_argument("--init-from", metavar="BUNDLE", help="start from the parameters of a bundle (name or folder)")
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
    from rdm_jax.training.config import load_config
    from rdm_jax.training.loop import train

    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of every checkpoint that one process writes alone
    unexpected = [override for override in args.overrides if "=" not in override]
    if unexpected:
        raise UserError(f"unexpected argument {unexpected[0]!r}; settings are written --config.KEY=VALUE")
    config = load_config(args.config, args.overrides)
    note(
        f"{config.task} {config.name!r}: {config.steps} steps of {config.batch_size}, in {args.workdir}; "
        "the first step compiles"
    )
    report = _Report()
    state = train(config, args.workdir, init_from=args.init_from, report=report, progress=_Caches())
    note(f"{args.workdir}: step {int(state.step)} of {config.steps}")


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
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "seconds")
        if self._start is None:
            self._start = (step, now)
        first, since = self._start
        left = ""
        if step > first:
            left = f", {format_seconds((now - since) / (step - first) * (steps - step))} left"
        note(f"step {step}/{steps}: {text}{left}")
