"""`rdm database merge`, `subset` and `remove`: databases built of others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rdm_jax.cli.database.common import add_duplicates, add_selection, check_local, selection, update_index
from rdm_jax.cli.progress import note
from rdm_jax.core.errors import UserError


def add_actions(actions: Any) -> None:
    """Adds the actions."""
    merge = actions.add_parser("merge", help="build one database of several")
    merge.set_defaults(perform=run_merge)
    merge.add_argument(
        "databases",
        nargs="+",
        metavar="DB[:WEIGHT]",
        help="names or folders; with weights, the numbers of their rows are in this proportion",
    )
    merge.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not exist")
    merge.add_argument("--name", help="of the database (default: the name of --out)")
    add_duplicates(merge, "rows")
    subset = actions.add_parser("subset", help="build a database of some rows of another")
    subset.set_defaults(perform=run_subset)
    subset.add_argument("database", metavar="DB", help="a name or a folder")
    subset.add_argument("--out", required=True, metavar="DIR", help="the folder to write; must not exist")
    subset.add_argument("--name", help="of the database (default: the name of --out)")
    subset.add_argument("--limit", type=int, metavar="N", help="use at most the first N rows")
    add_selection(subset, "rows")
    add_duplicates(subset, "rows")
    remove = actions.add_parser("remove", help="remove rows from a database, such as those of an artist")
    remove.set_defaults(perform=run_remove)
    remove.add_argument("database", metavar="DB", help="a folder")
    remove.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="remove rows with this attribute (also path, caption, id, sha256); repeatable, all must hold",
    )
    remove.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="remove what a text file lists: a path, FOLDER/ or KEY=VALUE on each line",
    )


def run_merge(args: argparse.Namespace) -> None:
    """Builds one database of several."""
    from rdm_jax.retrieval import edit
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.mixture import parse_weighted

    out = check_local(args.out, "--out")
    names, given = zip(*map(parse_weighted, args.databases), strict=True)
    databases = [Database.open(name) for name in names]
    weights = None if set(given) == {None} else [1.0 if weight is None else weight for weight in given]
    count = edit.merge(databases, out, args.name, args.duplicates, weights)
    dropped = sum(map(len, databases)) - count
    why = "near-duplicates dropped" if weights is None else "left out by weights and as near-duplicates"
    note(f"{out}: {count} rows of {len(databases)} databases, {dropped} {why}")
    update_index(out)


def run_subset(args: argparse.Namespace) -> None:
    """Builds a database of some rows of another."""
    from rdm_jax.retrieval import edit
    from rdm_jax.retrieval.database import Database

    out = check_local(args.out, "--out")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit} leaves no rows; give 1 or more")
    database = Database.open(args.database)
    chosen = selection(args)
    count = edit.subset(database, out, chosen, limit=args.limit, duplicates=args.duplicates, name=args.name)
    note(f"{out}: {count} of the {len(database)} rows of {database.name!r}")
    update_index(out)


def run_remove(args: argparse.Namespace) -> None:
    """Removes rows from a database."""
    from rdm_jax.data.selection import Selection, parse_terms, read_exclusions
    from rdm_jax.retrieval import edit
    from rdm_jax.retrieval.database import EMBEDDED, Database

    if not args.where and args.list is None:
        raise UserError("no rows are named; give --where KEY=VALUE or --list FILE")
    check_local(args.database, "DB")
    listed = read_exclusions(args.list) if args.list else ()
    database = Database.open(args.database)
    if database.path.parent == EMBEDDED:
        raise UserError(f"{database.name!r} comes with the package; copy the other rows by `rdm database subset`")
    removed = edit.remove(database, Selection(parse_terms(args.where, "--where"), listed))
    note(f"{database.path}: {removed} rows removed, {len(database) - removed} remain")
    update_index(database.path, database.manifest)
