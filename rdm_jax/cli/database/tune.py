"""`rdm database tune`: measures recall and time of an index, and stores the fastest one that reaches a target."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from rdm_jax.cli.database.common import add_encoder, check_local, check_range, encoder_of, write
from rdm_jax.cli.progress import Progress, note, shown_log
from rdm_jax.cli.readers import number
from rdm_jax.core.errors import UserError

DESCRIPTION = """Measures the recall of an index relative to exact search, on images and on texts, and its time per
query, and stores the fastest setting that reaches the target in the database. Texts are the captions of the database,
or those of --queries."""

K = 10


def add_actions(actions: Any) -> None:
    """Adds the action."""
    parser = actions.add_parser(
        "tune", help="measure recall and time of an index, and store it", description=DESCRIPTION
    )
    parser.set_defaults(perform=run)
    parser.add_argument("database", metavar="DB", help="a name or a folder")
    parser.add_argument("--k", type=number(int, 1), help=f"neighbors to find ({K}, or all if there are fewer)")
    parser.add_argument("--target", type=float, default=0.99, metavar="RECALL", help="recall to reach (%(default)s)")
    parser.add_argument("--queries", type=Path, metavar="FILE", help="texts to search for, one on each line")
    parser.add_argument("--leaves", type=number(int, 1), metavar="N", help="of the tree (default: about 2 sqrt(rows))")
    parser.add_argument(
        "--shard-rows", type=number(int, 1), metavar="N", help="rows indexed together (default: a million)"
    )
    parser.add_argument(
        "--engine", metavar="KIND", help="what proposes rows: scann or faiss (default: the first one that is installed)"
    )
    add_encoder(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the table and store nothing")


def run(args: argparse.Namespace) -> None:
    """Prints the table and stores the index."""
    from rdm_jax.retrieval.approximate_index import ApproximateIndex, store
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.tune import Trial, image_queries, text_queries, tune

    if not args.dry_run:
        check_local(args.database, "DB")
    database = Database.open(args.database)
    k = min(K, len(database)) if args.k is None else args.k
    check_range("--k", k, 1, len(database), f"; database {database.name!r} has {len(database)} rows")
    texts = _texts(args.queries) if args.queries else []
    index = _index(args, database)
    encoder = encoder_of(database, args.encoder)
    database.check_encoder(encoder.identity)
    queries = {"images": image_queries(database), "texts": text_queries(database, encoder, texts)}
    kinds = [kind for kind, vectors in queries.items() if len(vectors)]
    write(f"{len(database)} rows, recall@{k} on " + ", ".join(f"{len(queries[kind])} {kind}" for kind in kinds))
    total = sum(map(len, queries.values()))
    write(f"{'index':28} {' '.join(f'{kind:>9}' for kind in kinds)}  ms/query  ms/query of {total}")

    def show(trial: Trial) -> None:
        scores = " ".join(f"{trial.recall[kind]:9.4f}" for kind in kinds)
        write(f"{trial.name:28} {scores}  {trial.single_ms:8.2f}  {trial.batch_ms:8.3f}")

    _, best = tune(database, queries, k, args.target, index, show)
    note(f"fastest with a recall of {args.target} or more: {best.name}")
    if args.dry_run:
        return
    if not isinstance(best.index, ApproximateIndex):
        note("exact search needs no index; none is stored")
        return
    store(database, best.index)
    note(f"{database.path}: the index is stored, its parameters are in the manifest")


def _index(args: argparse.Namespace, database: Any) -> Any:
    from rdm_jax.retrieval.approximate_index import ApproximateIndex, engine_of, installed_engines
    from rdm_jax.retrieval.engine import BRUTE_FORCE_ROWS, Parameters

    engine = engine_of(args.engine) if args.engine else next(iter(installed_engines()), None)
    if engine is None:
        note(
            "no engine of approximate search is installed (pip install 'rdm_jax[faiss]'): only exact search is measured"
        )
        return None
    if len(database) < BRUTE_FORCE_ROWS:
        note(f"{len(database)} rows are searched exactly: an index helps from {BRUTE_FORCE_ROWS} rows on")
        return None
    chosen = Parameters.of(*database.rows.shape)
    if args.leaves is not None:
        check_range("--leaves", args.leaves, 1, len(database))
        chosen = dataclasses.replace(chosen, leaves=args.leaves)
    if args.shard_rows is not None:
        check_range("--shard-rows", args.shard_rows, BRUTE_FORCE_ROWS, 10**9)
        chosen = dataclasses.replace(chosen, shard_rows=args.shard_rows)
    with shown_log(), Progress(f"indexing by {engine.label}", unit="row") as progress:
        return ApproximateIndex.build(database.rows, chosen, progress, engine)


def _texts(path: Path) -> list[str]:
    from rdm_jax.core import text

    lines = text.lines(text.read_given(path, "--queries"))
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError(f"--queries {path} holds no text; write one on each line")
    return texts
