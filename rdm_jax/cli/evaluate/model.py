"""`rdm evaluate model`: generates images with a model, and measures them by the field's metrics."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli import generating, sample
from rdm_jax.cli.evaluate import sets
from rdm_jax.cli.progress import note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.cli.evaluate.common import Measured
    from rdm_jax.generator import Generator, Plan
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.mixture import Mixture

HELP = "generate images with a model, and measure them"
SAMPLES = "samples"  # the folder of the images within --out
OF_CAPTIONS = ("clip-score", "retrieval")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the measure's arguments."""
    parser.add_argument("model", metavar="MODEL", help="the name or folder of a model")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help=f"the folder to write; images that are in its {SAMPLES}/ already stay, the same command continues",
    )
    sample.add_query_options(parser)
    generating.add_generation_options(parser, everything=False)
    sets.add_metric_options(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(disable_metadata=False, skip_grid=True, previews=False)


def run_measure(args: argparse.Namespace, out: Path) -> Measured:
    """Generates the images that are not there yet, and measures all of them."""
    args.seed = args.seed or 0
    prompts = sample.read_prompts(args.from_file) if args.from_file else []
    if not (prompts or args.proposals):
        raise UserError(
            "nothing to generate: give prompts by --from-file FILE, or --proposals N for rows of the database"
        )
    from rdm_jax.cli import run_folder
    from rdm_jax.generator import Generator

    run_folder.check_writable(out)
    generator = Generator.load(args.model, args.dtype, tuple(args.set), loras=tuple(args.lora))
    generating.build_image_folders(args, generator.encoder)
    databases = generating.open_databases(args.database, args.condition, generator.bundle)
    _check(args, databases, bool(prompts))
    plans = sample.plans_of(generator, args, prompts, [], databases)
    generate(generator, databases, plans, out, args)
    opened = [one for database in databases if database is not None for one in database.databases]
    measured = sets.measure(args, out / SAMPLES, args.seed, generation(generator, plans[0], opened, args))
    return dataclasses.replace(measured, bundle=generator.bundle, databases=opened)


def generate(
    generator: Generator,
    databases: list[Mixture | None],
    plans: list[Plan],
    out: Path,
    args: argparse.Namespace,
) -> None:
    """Generates the images that are not in `SAMPLES` of the output folder yet."""
    with _samples(out) as (folder, resume):
        layout = dataclasses.replace(generating.plain_layout(databases), resume=resume)
        generating.write_run(generator, databases, plans, folder, args, layout=layout)


def _check(args: argparse.Namespace, databases: Sequence[Mixture | None], prompted: bool) -> None:
    """Checks the metrics before anything is generated; copies are searched in the run's own database by default."""
    if len(databases) > 1:
        raise UserError(
            f"one evaluation is of one database, and {len(databases)} are given; run it for each, or give weights"
        )
    wanted = set(args.metrics.split(","))
    if not prompted and wanted & set(OF_CAPTIONS):
        names = ", ".join(sorted(wanted & set(OF_CAPTIONS)))
        raise UserError(f"metrics {names} need prompts, and --proposals has none; give --from-file")
    database = databases[0]
    if args.training is None and "copies" in wanted and database is not None and len(database.databases) == 1:
        args.training = str(database.databases[0].path)
    sets.check(args)


@contextlib.contextmanager
def _samples(out: Path) -> Iterator[tuple[Path, bool]]:
    """Yields the folder of the images, and whether it holds some of them; no other process may write there.

    What a run has left that was killed before its first record is removed.
    """
    from rdm_jax.cli import run_folder
    from rdm_jax.core import files, text

    folder, made = out / SAMPLES, not out.exists()
    with files.writing(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        with files.locked(out / f"{SAMPLES}.lock", folder):
            record = folder / run_folder.RUN
            if record.is_file() and text.read(record).encode() == files.json_bytes(run_folder.UNFINISHED):
                shutil.rmtree(folder)
            yield folder, record.is_file()
    finally:
        if made:
            with contextlib.suppress(OSError):  # something was written: the folder stays
                out.rmdir()


def generation(
    generator: Generator, plan: Plan, databases: Sequence[Database], args: argparse.Namespace
) -> dict[str, Any]:
    """Returns how the images were generated, as JSON values."""
    from rdm_jax.cli import records
    from rdm_jax.core.options import to_json
    from rdm_jax.evaluation.index_recall import index_recall

    bundle, request = generator.bundle, plan.request
    note("measuring the recall of the index") if databases else None
    return {
        "model": {**records.identity(bundle), "dtype": bundle.dtype},
        "weights": _weights(bundle.config),
        "head": generator.head.name,
        "queries": {
            "kind": "rows of the database" if args.proposals else "prompts",
            "count": len(plan.prompts),
            "top_m": args.top_m,
            "weighted": args.weighted,
        },
        "request": to_json(request),
        "options": to_json(plan.options),
        "databases": [
            {**records.identity(one), "rows": len(one), **index_recall(one, plan.queries, request.neighbors)}
            for one in databases
        ],
    }


def _weights(config: dict[str, Any]) -> str:
    """Returns which weights a bundle holds: "ema" or "raw" as converted, "ema" as `rdm export` writes them."""
    return str(config.get("weights") or ("ema" if config.get("training") else "unknown"))
