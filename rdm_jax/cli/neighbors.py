"""`rdm neighbors`: computes the neighbors of a training set ahead of time."""

from __future__ import annotations

import argparse
from typing import Any

from rdm_jax.cli.database.common import add_encoder, check_local, encoder_place, report_skipped
from rdm_jax.cli.execution import add_execution, execution_of, runner_of
from rdm_jax.cli.progress import Progress, note
from rdm_jax.cli.readers import number

HELP = """compute the neighbors of a training set ahead of time

  rdm neighbors --dataset style_scenes/tiny --split train --database my-database --k 20 --out my-neighbors

Writes ArrayRecord files with one record for each example, in order: the k nearest rows of the database, their scores
and embeddings. After an interruption, the same command continues."""

K = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("--dataset", required=True, metavar="NAME|FOLDER|ZIP", help="the training set")
    parser.add_argument("--split", help="of a TFDS data set, or a subfolder train, validation or test")
    parser.add_argument("--data-dir", metavar="DIR", help="the folder of TFDS data sets")
    parser.add_argument("--database", required=True, metavar="DB", help="a name or a folder")
    parser.add_argument("--k", type=number(int, 1), help=f"neighbors of each example ({K}, or all if there are fewer)")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    add_encoder(parser)
    parser.add_argument(
        "--embeddings",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also store the embeddings in float16, so that training reads no database (%(default)s)",
    )
    parser.add_argument(
        "--duplicates",
        type=float,
        metavar="COSINE",
        help="a row with the pixels of the example, or with at least this cosine (1 - 1e-6), is not its neighbor",
    )
    parser.add_argument("--keep-duplicates", action="store_true", help="an example may be its own neighbor")
    parser.add_argument(
        "--within",
        metavar="KEY",
        help="only neighbors with the example's value of this attribute, from its own collection, as in sampling",
    )
    parser.add_argument("--index", default="auto", metavar="KIND", help="auto, exact, scann or faiss (%(default)s)")
    add_execution(parser)


def run(args: argparse.Namespace) -> None:
    """Computes the neighbors and reports the result."""
    runner = runner_of(args)

    from rdm_jax.bundle import Bundle
    from rdm_jax.core import paths
    from rdm_jax.data.sources import open_source
    from rdm_jax.retrieval.cluster import neighbors_on_cluster
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.duplicates import SAME
    from rdm_jax.retrieval.encoder import ClipEncoder
    from rdm_jax.retrieval.manifest import MANIFEST
    from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions, compute_neighbors

    out = None if runner and paths.is_remote(args.out) else check_local(args.out, "--out")
    database = Database.open(args.database)
    source = open_source(args.dataset, args.split, args.data_dir)
    duplicates = None if args.keep_duplicates else SAME if args.duplicates is None else args.duplicates
    options = NeighborOptions(_k(args, database), args.embeddings, duplicates, args.within, args.index)
    place = encoder_place(database, args.encoder)
    job = NeighborJob(source, ClipEncoder(Bundle.open(place, parts=("clip",)), args.batch_size), database, options)
    with Progress("neighbors", unit="example") as progress:
        execution = execution_of(args, progress)
        if runner or out is None:
            report = neighbors_on_cluster(job, place, args.database, args.out, runner, execution)
        else:
            report = compute_neighbors(job, out, execution)
    report_skipped(report.skipped, f"{args.out}/{MANIFEST}")
    if report.missing:
        note(f"{args.out}: this process is done; {report.missing} parts remain for other processes")
    elif report.resumed == report.count:
        note(f"{args.out}: finished before, {report.count} examples")
    else:
        before = f", {report.resumed} of them by an earlier run" if report.resumed else ""
        note(f"{args.out}: {options.k} neighbors of {report.count} examples in {database.name!r}{before}")


def _k(args: argparse.Namespace, database: Any) -> int:
    """Returns --k, or as many neighbors as every example has, up to the default."""
    from rdm_jax.retrieval.neighbor_search import most_neighbors

    if args.k is not None:
        return args.k
    k = min(K, most_neighbors(database, args.within, not args.keep_duplicates))
    if k < K:
        note(f"{k} neighbors and not {K}, the default: database {database.name!r} has no more for every example")
    return k
