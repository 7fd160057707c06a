"""`rdm neighbors`: computes the neighbours of a training set ahead of time."""

from __future__ import annotations

import argparse
from pathlib import Path

from rdm_jax.cli.database import DEFAULT_ENCODER, report_skipped
from rdm_jax.cli.progress import Progress, note
from rdm_jax.core.errors import UserError

HELP = """compute the neighbours of a training set ahead of time

  rdm neighbors --dataset style_scenes/tiny --split train --database my-database --k 20 --out my-neighbors

For each example, in order: the k nearest rows of the database, their scores and embeddings, in ArrayRecord. The same
command after a stop goes on where it was."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("--dataset", required=True, metavar="NAME|FOLDER|ZIP", help="the training set")
    parser.add_argument("--split", help="of a TFDS set, or a sub-folder train, validation or test")
    parser.add_argument("--data-dir", metavar="DIR", help="where TFDS keeps its sets")
    parser.add_argument("--database", required=True, metavar="DB", help="a name or a folder")
    parser.add_argument("--k", type=int, default=20, help="neighbours for each example (%(default)s)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, metavar="BUNDLE", help="a model with the CLIP that made "
                        "the database (%(default)s)")  # fmt: skip
    parser.add_argument("--exclude-duplicates", action="store_true", help="leave out rows of the example's own picture")
    parser.add_argument("--within", metavar="KEY", help="take neighbours with the example's own value of "
                        "this attribute, from its own collection, as when drawing")  # fmt: skip
    parser.add_argument("--index", default="auto", metavar="KIND", help="auto, exact or scann (%(default)s)")
    parser.add_argument("--max-skip", type=float, default=0.05, metavar="SHARE", help="fail if more than this share of "
                        "the pictures cannot be read (%(default)s)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Writes the neighbours and says where they are."""
    if not 0 <= args.max_skip <= 1:
        raise UserError(f"--max-skip {args.max_skip} is out of range; give 0 to 1")

    from rdm_jax.bundle import Bundle
    from rdm_jax.data.sources import open_source
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.encoder import ClipEncoder
    from rdm_jax.retrieval.neighbors import compute_neighbors

    database = Database.open(args.database)
    source = open_source(args.dataset, args.split, args.data_dir)
    encoder = ClipEncoder(Bundle.open(args.encoder, parts=("clip",)))
    with Progress("neighbours", unit="example") as progress:
        report = compute_neighbors(
            source,
            encoder,
            database,
            args.k,
            args.out,
            exclude_duplicates=args.exclude_duplicates,
            within=args.within,
            max_skip=args.max_skip,
            index=args.index,
            progress=progress,
        )
    report_skipped(report.skipped)
    if report.resumed == report.count:
        note(f"{report.path}: finished before, {report.count} examples")
    else:
        before = f", {report.resumed} of them from a run before" if report.resumed else ""
        note(f"{report.path}: {args.k} neighbours of {report.count} examples in {database.name!r}{before}")
