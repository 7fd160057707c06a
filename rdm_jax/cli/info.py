"""`rdm info`: the contents of a training run's newest checkpoint, and what it was made from."""

from __future__ import annotations

import argparse
import json
import sys

from rdm_jax.core.errors import UserError

HELP = """describe a training run

  rdm info runs/rdm

Prints the newest checkpoint's step, the task and name of its config, the hashes of what it was made from, and the
SHA-256 of parameters, average, optimizer state and stats: two runs with equal ones are equal bit for bit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("workdir", metavar="WORKDIR", help="the folder of the run, or its gs:// address")
    parser.add_argument("--json", action="store_true", help="as one JSON object, with the whole config")


def run(args: argparse.Namespace) -> None:
    """Prints the description."""
    from rdm_jax.cli.train import quiet_orbax
    from rdm_jax.core import trees
    from rdm_jax.training.checkpoints import restore_arrays
    from rdm_jax.training.workdir import CONFIG, Workdir

    quiet_orbax()
    workdir = Workdir.existing(args.workdir)
    config = workdir.read_json(CONFIG)
    if config is None:
        raise UserError(f"{args.workdir} is no training run: it has no {CONFIG}; give a --workdir of `rdm train`")
    step, state, record = restore_arrays(workdir)
    description = {
        "step": step,
        "steps": config["steps"],
        "task": config["task"],
        "name": config["name"],
        "data": f"{config['data']['source']} {config['data']['split']}".strip(),
        "parameters": trees.count(state["params"]),
        "made_from": record,
        "sha256": {part: trees.digest(trees.named(state[part])) for part in ("params", "ema", "opt_state", "stats")},
    }
    if args.json:
        sys.stdout.write(json.dumps({**description, "config": config}, indent=2) + "\n")
        return
    made_from, hashes = description.pop("made_from"), description.pop("sha256")
    lines = {**description, **made_from, **{f"sha256 of {part}": sha for part, sha in hashes.items()}}
    width = max(map(len, lines))
    for name, value in lines.items():
        sys.stdout.write(f"{name:{width}}  {value}\n")
