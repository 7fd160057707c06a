"""`rdm ablate`: trains or samples, measures and plots the cells of a grid."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.progress import format_seconds, note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.ablation.grid import Grid, Job

HELP = """Trains or samples, measures and plots a grid of settings.

  rdm ablate --list-configs
  rdm ablate ablations/sampling_neighbors --workdir runs/sampling_neighbors
  rdm ablate ablations/neighbors:paper --workdir runs/neighbors --dry-run

A config describes stages, each an `rdm` command, and axes of settings. After a stop the same command continues: a
stage whose results are there is skipped, and one that was made by other settings is refused. Writes report.md with its
plots and CSV files in files/, and report.html, which holds all of them. --dry-run prints every command, checks its
options, and predicts the cost of every training."""

FILES = "files"
TRAIN_KEYS = ("config", "init-from")
HOUR = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("config", nargs="?", metavar="NAME[:ARG]", help="a shipped grid, or a file, as mine.py")
    parser.add_argument("--list-configs", action="store_true", help="print the shipped grids")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="the folder of all stages and of the report")
    parser.add_argument("--dry-run", action="store_true", help="print and check every command; run nothing")
    parser.add_argument("--mesh", metavar="DATAxFSDP", help="of the dry run of trainings (default: the grid's own)")


def run(args: argparse.Namespace) -> None:
    """Runs the stages that are missing, and writes the report."""
    from rdm_jax.ablation.grid import jobs_of, read_grid
    from rdm_jax.training.config import ABLATIONS, config_values, shipped_configs

    if args.list_configs:
        configs = shipped_configs(ABLATIONS)
        width = max(map(len, configs))
        sys.stdout.write("".join(f"{name:{width}}  {line}\n" for name, line in configs.items()))
        return
    if args.config is None or args.workdir is None:
        raise UserError("give a grid and --workdir DIR; --list-configs prints the shipped grids")
    grid = read_grid(config_values(args.config))
    jobs = jobs_of(grid)
    if args.dry_run:
        _dry_run(grid, jobs, args.workdir, args.mesh or grid.mesh or None)
        return
    from rdm_jax.core import files

    with files.writing(args.workdir):
        args.workdir.mkdir(parents=True, exist_ok=True)
    with files.locked(args.workdir / "ablate.lock", args.workdir):
        _run_all(jobs, args.workdir)
        _write_report(grid, args.workdir)
    sys.stdout.write(f"{args.workdir}\n")


def _run_all(jobs: Sequence[Job], workdir: Path) -> None:
    """Runs the jobs that are not done; before the first one, all that were started are compared with their records."""
    missing = [job for job in jobs if not _is_done(job, workdir)]
    for job in missing:
        if job.command != "train" and not job.command.startswith("python -m"):
            _check(job, workdir)
    if len(missing) < len(jobs):
        note(f"{len(jobs) - len(missing)} of {len(jobs)} stages are done already")
    for number, job in enumerate(missing, start=1):
        begin = time.monotonic()
        note(f"[{number}/{len(missing)}] {job.folder}: {shlex.join(arguments(job, workdir))}")
        _mark(job, workdir, done=False)
        with contextlib.redirect_stdout(sys.stderr):  # standard output has the folder of the whole grid alone
            _run(job, workdir)
        _mark(job, workdir, done=True, seconds=round(time.monotonic() - begin, 1))
        note(f"{job.folder} in {format_seconds(time.monotonic() - begin)}")
        _forget_programs()


def arguments(job: Job, workdir: Path) -> list[str]:
    """Returns the command line of a job, without `rdm`.

    Args:
      job: of a grid.
      workdir: of the grid.
    """
    from rdm_jax.ablation.grid import MODULE, PLACES, TRAIN

    settings = resolved(job, workdir)
    places = settings.pop(PLACES, [])
    words = [*job.command.split(), *([places] if isinstance(places, str) else map(str, places))]
    for name, value in settings.items():
        flag = f"--config.{name}" if job.command == TRAIN and name not in TRAIN_KEYS else f"--{name}"
        for one in value if isinstance(value, list) else [value]:
            if one is True and not flag.startswith("--config."):
                words.append(flag)
            else:
                words.append(f"{flag}={_text(one)}")
    if not job.command.startswith(MODULE):
        words += ["--workdir" if job.command == TRAIN else "--out", str(workdir / job.folder)]
    return words


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolved(job: Job, workdir: Path) -> dict[str, Any]:
    """Returns the settings of a job with the folders of the grid in place of their names."""
    from rdm_jax.ablation.grid import WORKDIR

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(one) for one in value]
        return value.replace(WORKDIR, str(workdir)) if isinstance(value, str) else value

    return {name: filled(value) for name, value in job.settings.items()}


def _run(job: Job, workdir: Path) -> None:
    """Runs one job in this process; a module of Python in one of its own."""
    from rdm_jax.ablation.grid import MODULE, TRAIN
    from rdm_jax.cli import main

    words = arguments(job, workdir)
    if job.command.startswith(MODULE):
        done = subprocess.run([sys.executable, *words[1:]], stdout=sys.stderr, check=False)
        if done.returncode:
            raise UserError(f"{shlex.join(words)} failed with status {done.returncode}; see its message above")
        return
    (workdir / job.folder).parent.mkdir(parents=True, exist_ok=True)
    if job.command == TRAIN:
        _train(job, workdir)
        return
    module, parsed = main.parsed(words)
    status = module.run(parsed)
    if status:
        raise UserError(f"stage {job.folder} ended with status {status}; the same command continues")


def _train(job: Job, workdir: Path) -> None:
    from rdm_jax.cli.train import train_in

    config = training_config(job, workdir)
    init_from = resolved(job, workdir).get("init-from")
    step = train_in(str(workdir / job.folder), config, init_from=init_from)
    if step < config.steps:
        raise UserError(f"{job.folder} is trained to step {step} of {config.steps}; the same command continues")


def training_config(job: Job, workdir: Path) -> Any:
    """Returns the configuration of a training.

    Raises:
      UserError: the job names no config, a key is unknown, or a value is of another type.
    """
    from rdm_jax.core import schema
    from rdm_jax.training.config import base_config, complete_config

    settings = resolved(job, workdir)
    if "config" not in settings:
        raise UserError(f"stage {job.folder} trains, and has no config; name one, as style_scenes/rdm")
    values = base_config(settings["config"]).to_dict()
    for key, value in settings.items():
        if key not in TRAIN_KEYS:
            schema.put(values, key, value)
    return complete_config(values).lock()


def _check(job: Job, workdir: Path) -> None:
    """Checks the options of a command before any job runs."""
    from rdm_jax.cli import main

    try:
        main.parsed(arguments(job, workdir))
    except UserError as error:
        raise UserError(f"stage {job.folder}: {error}") from error


def _forget_programs() -> None:
    """Frees the programs of the last job: the next one has a model of its own, and would only add to them."""
    import jax

    jax.clear_caches()
    gc.collect()


def _record_file(job: Job, workdir: Path) -> Path:
    return workdir / f"{job.folder}.json"


def _is_done(job: Job, workdir: Path) -> bool:
    """Returns whether a job is done, with the same settings.

    Raises:
      UserError: it was run, or started, with other settings.
    """
    from rdm_jax.core import text
    from rdm_jax.report.settings import differing

    file = _record_file(job, workdir)
    if not file.is_file():
        return False
    try:
        record = text.read_json(file)
        earlier = {"command": record["command"], **record["settings"]}
        done = bool(record["done"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged; remove it with {workdir / job.folder} to run that stage again") from error
    differences = differing([earlier, json.loads(json.dumps({"command": job.command, **job.settings}))])
    if differences:
        name, (before, now) = differences[0]
        raise UserError(
            f"{workdir / job.folder} was made with {name or 'places'} {before}, and the grid has {now}; give another "
            f"--workdir, or remove that folder and {file.name} beside it"
        )
    return done


def _mark(job: Job, workdir: Path, **state: Any) -> None:
    from rdm_jax.cli import run_folder

    file = _record_file(job, workdir)
    file.parent.mkdir(parents=True, exist_ok=True)
    run_folder.write_record(file, {"command": job.command, "settings": dict(job.settings), **state})


def _write_report(grid: Grid, workdir: Path) -> None:
    """Writes the report of all cells in place of the one before, and prints its table."""
    from rdm_jax.ablation.grid import EVALUATE, jobs_of_cell
    from rdm_jax.ablation.results import cell_results, report
    from rdm_jax.cli import run_folder
    from rdm_jax.core import text
    from rdm_jax.report import plots
    from rdm_jax.report.blocks import File, markdown, page

    cells = []
    for cell in grid.cells:
        measured = [job for job in jobs_of_cell(grid, cell).values() if job.command.startswith(EVALUATE)]
        if measured:
            found = {job.stage: text.read_json(workdir / job.folder / run_folder.RESULTS) for job in measured}
            cells.append(cell_results(cell, found))
    blocks = report(grid, cells)
    if not plots.available():
        note(plots.MISSING)
    (workdir / FILES).mkdir(exist_ok=True)
    for file in (block for block in blocks if isinstance(block, File)):
        run_folder.write_again(workdir / FILES / file.name, file.data)
    run_folder.write_again(workdir / "report.html", page(blocks, grid.title).encode())
    run_folder.write_again(workdir / "report.md", markdown(blocks, FILES).encode())


def _dry_run(grid: Grid, jobs: Sequence[Job], workdir: Path, mesh: str | None) -> None:
    """Prints and checks the command of every job; predicts the cost of trainings, each kind once."""
    from rdm_jax.ablation.grid import MODULE, TRAIN

    sys.stdout.write(f"{grid.title}: {len(grid.cells)} cells, {len(jobs)} stages\n")
    costs: dict[str, str] = {}
    for job in jobs:
        program = "" if job.command.startswith(MODULE) else "rdm "
        sys.stdout.write(f"\n{program}{shlex.join(arguments(job, workdir))}\n")
        if job.command == TRAIN:
            config = training_config(job, workdir)
            key = json.dumps(shaping(config.to_dict()), sort_keys=True, default=str)
            if key not in costs:
                costs[key] = cost(config, mesh)
            sys.stdout.write(f"  {costs[key]}\n")
        elif program:
            _check(job, workdir)


def shaping(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a training that its cost depends on: equal ones need one prediction."""
    data = {"name", "neighbors", "database", "source", "split", "compute"}
    kept = {key: value for key, value in config.items() if key not in ("name", "data", "base", "sampling")}
    return {**kept, "data": {key: value for key, value in config["data"].items() if key not in data}}


def cost(config: Any, mesh: str | None) -> str:
    """Returns the predicted cost of a training in one line, or why there is no prediction.

    Args:
      config: of the training.
      mesh: as of `cli.train.cost_report`.
    """
    from rdm_jax.cli import train
    from rdm_jax.training.tasks import has_dry_run

    if not has_dry_run(config.task):
        return f"the settings are valid; task {config.task!r} has no prediction of its cost"
    found = train.cost_report(config, mesh, analytic=True)
    times = [
        f"{one.chip.name} {config.steps * one.overlapped / HOUR:,.1f} h{'' if one.fits else ' (does not fit)'}"
        for one in found.predictions
    ]
    devices = " x ".join(map(str, found.mesh_shape.values()))
    return (
        f"{found.parameters / 1e6:,.1f} M parameters, {found.memory.total / 1e9:,.2f} GB on each of {devices} devices; "
        f"{config.steps:,} steps of {config.batch_size} take at least {', '.join(times)}"
    )
