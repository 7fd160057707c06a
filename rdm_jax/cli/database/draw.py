"""`rdm database sheet` and `map`: pictures of a database."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rdm_jax.cli.database.common import (
    add_selection,
    check_picture,
    check_range,
    encoder_of,
    read_picture,
    selection,
    write_picture,
)
from rdm_jax.cli.progress import note
from rdm_jax.core.errors import UserError

ZOOMED = 128
MAX_SEED = 2**32 - 1


def add_actions(actions: Any) -> None:
    """Adds the actions."""
    sheet = actions.add_parser("sheet", help="draw a contact sheet of a database")
    sheet.set_defaults(perform=run_sheet)
    sheet.add_argument("database", metavar="DB", help="a name or a folder")
    sheet.add_argument("--out", required=True, type=Path, metavar="FILE", help="the picture to write (.png, .jpg)")
    sheet.add_argument("--number", type=int, default=48, metavar="N", help="of pictures, drawn by lot (%(default)s)")
    sheet.add_argument("--columns", type=int, default=8, metavar="N", help="of the sheet (%(default)s)")
    sheet.add_argument("--seed", type=int, default=0, help="of the lot (%(default)s)")
    add_selection(sheet, "rows")
    chart = actions.add_parser("map", help="draw a database in two dimensions, with a query and its neighbours on it")
    chart.set_defaults(perform=run_map)
    chart.add_argument("database", metavar="DB", help="a name or a folder")
    chart.add_argument("--out", required=True, type=Path, metavar="FILE", help="the picture to write (.png, .jpg)")
    chart.add_argument("--method", default="pca", metavar="NAME", help="pca (default) or umap (the extra 'map')")
    chart.add_argument("--query", metavar="TEXT", help="what to look for")
    chart.add_argument("--image", type=Path, metavar="FILE", help="look for pictures like this one")
    chart.add_argument("--k", type=int, default=8, help="neighbours that are shown (%(default)s)")
    chart.add_argument(
        "--number", type=int, default=2000, metavar="N", help="of rows on the map at most, drawn by lot (%(default)s)"
    )
    chart.add_argument("--seed", type=int, default=0, help="of the lot (%(default)s)")
    chart.add_argument("--encoder", metavar="BUNDLE", help="the model that made the database; by its name if not given")
    add_selection(chart, "rows")


def run_sheet(args: argparse.Namespace) -> None:
    """Draws the sheet."""
    check_picture(args.out, "--out")
    check_range("--number", args.number, 1, 2000)
    check_range("--columns", args.columns, 1, 40)
    check_range("--seed", args.seed, 0, MAX_SEED)

    from rdm_jax.core import sheets
    from rdm_jax.retrieval.database import Database

    database = Database.open(args.database)
    rows = _lot(database, args)
    items, pictures = database.items(rows), database.thumbnails(rows)
    columns = min(args.columns, len(rows))
    labels = [item["caption"] or Path(item["path"]).name for item in items]
    labels += [""] * (-len(labels) % columns)
    picture = sheets.grid(
        sheets.in_rows(pictures, columns),
        cell_labels=[labels[start : start + columns] for start in range(0, len(labels), columns)],
        title=f"{database.name}: {len(rows)} of {len(database)} rows",
        zoom=max(1, ZOOMED // pictures.shape[1]),
    )
    write_picture(args.out, picture, "--out")
    note(f"{args.out}: {len(rows)} pictures")


def run_map(args: argparse.Namespace) -> None:
    """Draws the map."""
    check_picture(args.out, "--out")
    check_range("--number", args.number, 3, 100_000)
    check_range("--seed", args.seed, 0, MAX_SEED)

    import numpy as np

    from rdm_jax.core.scatter import scatter
    from rdm_jax.retrieval import projection
    from rdm_jax.retrieval.database import Database

    database = Database.open(args.database)
    rows = _lot(database, args)
    found, query = np.zeros(0, np.int64), None
    title = f"{database.name}: {len(rows)} of {len(database)} rows by {args.method}"
    if args.query or args.image:
        query, found = _search(database, args)
        title += f", {args.query or args.image.name!r} and its neighbours"
    shown = np.concatenate([found, np.setdiff1d(rows, found)])
    project = projection.fit(database.embeddings(shown), args.method, args.seed)
    picture = scatter(
        project(database.embeddings(shown)),
        database.thumbnails(shown),
        title=title,
        query=None if query is None else project(query)[0],
        neighbors=list(range(len(found))),
    )
    write_picture(args.out, picture, "--out")
    note(f"{args.out}: {len(shown)} rows")


def _lot(database: Any, args: argparse.Namespace) -> Any:
    """Returns the ids of some rows, drawn by lot, in their order."""
    import numpy as np

    ids = np.flatnonzero(database.mask(selection(args)))
    if not len(ids):
        raise UserError(f"no row of database {database.name!r} fits; check --where and --exclude")
    chosen = np.random.default_rng(args.seed).choice(len(ids), min(args.number, len(ids)), replace=False)
    return np.sort(ids[chosen])


def _search(database: Any, args: argparse.Namespace) -> tuple[Any, Any]:
    from rdm_jax.retrieval.query import mixed_query
    from rdm_jax.retrieval.retriever import Retriever

    encoder = encoder_of(database, args.encoder)
    pictures = [read_picture(args.image)] if args.image else []
    query = mixed_query(encoder, [args.query] if args.query else [], pictures)
    return query, Retriever(encoder, [database], selection=selection(args)).retrieve(query, args.k).ids[0]
