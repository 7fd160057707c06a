"""`rdm evaluate guidance`: whether guidance has its expected effects."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_jax.cli.evaluate.common import Measured, Stages, add_common, chosen, classifier_of, introduce
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.evaluation.bench import Sizes as GuidanceSizes
    from rdm_jax.evaluation.methods import Method
    from rdm_jax.retrieval.database import Database

GENERAL = "general"
MAX_SEED = 2**32 - 1_000_000  # of guidance, which adds to it
HELP = "does guidance have its expected effects?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the measure's arguments."""
    add_common(parser, "folder of databases; `general` is used, or all if there is none", "a few images of each")
    parser.add_argument(
        "--method", action="append", default=[], metavar="NAME", help="measure this one alone (repeatable)"
    )
    parser.add_argument("--targets", type=int, metavar="N", help="references and prompts (default: 24)")
    parser.add_argument("--steps", type=int, metavar="S", help="sampling steps (default: 20)")


def run_measure(args: argparse.Namespace, out: Path) -> Measured:
    """Measures whether guidance has its expected effects."""
    methods, sizes = _methods(args.method), _guidance_sizes(args)
    from rdm_jax.cli import run_folder
    from rdm_jax.evaluation import guidance_report as report
    from rdm_jax.evaluation.bench import SAMPLER, open_bench
    from rdm_jax.evaluation.guidance import measure
    from rdm_jax.generator import Generator

    run_folder.check_writable(out)
    generator = Generator.load(args.model)
    databases = _databases(args.databases)
    for database in databases:
        database.check_encoder(generator.encoder.identity)
    generator.resolve(1, steps=sizes.steps, sampler=SAMPLER, seed=args.seed)
    classifier = classifier_of(args)
    introduce(generator.bundle, classifier, databases)
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(generator, databases, classifier, sizes, Path(folder), args.seed)
        results, shown = measure(bench, Stages(args.quiet), methods)
    return Measured(
        results=results,
        arguments={"sizes": dataclasses.asdict(sizes), "seed": args.seed},
        bundle=generator.bundle,
        classifier=classifier,
        databases=databases,
        markdown=report.markdown(results, f"Guidance of {generator.bundle.name}"),
        screen=report.screen(results),
        images={
            "grid.png": report.grid(bench.targets, sizes.images, shown, results),
            "curves.png": report.curves(results),
        },
    )


def _databases(folder: Path | None) -> list[Database]:
    """Returns the embedded database `general`, that of a folder, or all of a folder that has none.

    Raises:
      UserError: the folder has no database.
    """
    from rdm_jax.retrieval.database import Database

    if folder is None or (folder / GENERAL).is_dir():
        return [Database.open(folder / GENERAL if folder else GENERAL)]
    found = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if not found:
        raise UserError(f"{folder} has no database; give a folder of folders that `rdm database build` made")
    return [Database.open(path) for path in found]


def _guidance_sizes(args: argparse.Namespace) -> GuidanceSizes:
    from rdm_jax.evaluation.bench import QUICK
    from rdm_jax.evaluation.bench import Sizes as GuidanceSizes

    sizes = QUICK if args.quick else GuidanceSizes()
    if not 0 <= args.seed <= MAX_SEED:
        raise UserError(f"--seed {args.seed} is out of range; give 0 to {MAX_SEED}")
    for option, count in (("--targets", args.targets), ("--steps", args.steps)):
        if count is not None and count < 2:
            raise UserError(f"{option} {count} is too few; give 2 or more")
    return dataclasses.replace(sizes, targets=args.targets or sizes.targets, steps=args.steps or sizes.steps)


def _methods(wanted: list[str]) -> tuple[Method, ...]:
    from rdm_jax.evaluation.methods import METHODS

    return chosen("method", wanted, {method.name: method for method in METHODS})
