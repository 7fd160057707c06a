"""`rdm database sheet` and `map`: a contact sheet of a database, and a map of its embeddings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rdm_jax.cli.database.common import (
    add_encoder,
    add_selection,
    check_image_path,
    encoder_of,
    selection,
    write_image,
)
from rdm_jax.cli.progress import note
from rdm_jax.cli.readers import MAX_SEED, number
from rdm_jax.core.errors import UserError

THUMBNAIL = 128  # pixels to which small thumbnails are enlarged
K = 8


def add_actions(actions: Any) -> None:
    """Adds the actions."""
    sheet = actions.add_parser("sheet", help="write a contact sheet of a database")
    sheet.set_defaults(perform=run_sheet)
    sheet.add_argument("database", metavar="DB", help="a name or a folder")
    sheet.add_argument("--out", required=True, type=Path, metavar="FILE", help="the image to write (.png, .jpg)")
    sheet.add_argument(
        "--number", type=number(int, 1, 2000), default=48, metavar="N", help="the number of random rows (%(default)s)"
    )
    sheet.add_argument(
        "--columns", type=number(int, 1, 40), default=8, metavar="N", help="images in a line (%(default)s)"
    )
    sheet.add_argument("--seed", type=number(int, 0, MAX_SEED), default=0, help="of the choice of rows (%(default)s)")
    add_selection(sheet, "rows")
    chart = actions.add_parser("map", help="project a database to two dimensions, with a query and its neighbors")
    chart.set_defaults(perform=run_map)
    chart.add_argument("database", metavar="DB", help="a name or a folder")
    chart.add_argument("--out", required=True, type=Path, metavar="FILE", help="the image to write (.png, .jpg)")
    chart.add_argument("--method", default="pca", metavar="NAME", help="pca (default) or umap (the extra 'map')")
    chart.add_argument("--query", metavar="TEXT", help="a text to search for")
    chart.add_argument("--image", type=Path, metavar="FILE", help="an image to search for")
    chart.add_argument("--k", type=number(int, 1), help=f"neighbors to show ({K}, or all if there are fewer)")
    chart.add_argument(
        "--number",
        type=number(int, 3, 100_000),
        default=2000,
        metavar="N",
        help="at most so many random rows (%(default)s)",
    )
    chart.add_argument("--seed", type=number(int, 0, MAX_SEED), default=0, help="of the choice of rows (%(default)s)")
    add_encoder(chart)
    add_selection(chart, "rows")


def run_sheet(args: argparse.Namespace) -> None:
    """Writes the sheet."""
    check_image_path(args.out, "--out")

    from rdm_jax.core import sheets
    from rdm_jax.retrieval.database import Database

    database = Database.open(args.database)
    rows = _random_rows(database, args)
    items, thumbnails = database.items(rows), database.thumbnails(rows)
    columns = min(args.columns, len(rows))
    labels = [item["caption"] or Path(item["path"]).name for item in items]
    labels += [""] * (-len(labels) % columns)
    image = sheets.grid(
        sheets.in_rows(thumbnails, columns),
        cell_labels=[labels[start : start + columns] for start in range(0, len(labels), columns)],
        title=f"{database.name}: {len(rows)} of {len(database)} rows",
        zoom=max(1, THUMBNAIL // thumbnails.shape[1]),
    )
    write_image(args.out, image, "--out")
    note(f"{args.out}: {len(rows)} images")


def run_map(args: argparse.Namespace) -> None:
    """Writes the map."""
    check_image_path(args.out, "--out")

    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.database_map import plot_map

    database = Database.open(args.database)
    rows = _random_rows(database, args)
    neighbors, query = (), None
    title = f"{database.name}: {len(rows)} of {len(database)} rows by {args.method}"
    if args.query or args.image:
        query, neighbors = _search(database, args)
        title += f", {args.query or args.image.name!r} and its neighbors"
    image, count = plot_map(database, rows, title, neighbors, query, args.method, args.seed)
    write_image(args.out, image, "--out")
    note(f"{args.out}: {count} rows")


def _random_rows(database: Any, args: argparse.Namespace) -> Any:
    """Returns the ids of random rows in ascending order."""
    import numpy as np

    ids = np.flatnonzero(database.mask(selection(args)))
    if not len(ids):
        raise UserError(f"no row of database {database.name!r} is selected; check --where and --exclude")
    chosen = np.random.default_rng(args.seed).choice(len(ids), min(args.number, len(ids)), replace=False)
    return np.sort(ids[chosen])


def _search(database: Any, args: argparse.Namespace) -> tuple[Any, Any]:
    from rdm_jax.core.images import read_image
    from rdm_jax.retrieval.query import mixed_query
    from rdm_jax.retrieval.retriever import Retriever

    encoder = encoder_of(database, args.encoder)
    images = [read_image(args.image)] if args.image else []
    query = mixed_query(encoder, [args.query] if args.query else [], images)
    retriever = Retriever(encoder, [database], selection=selection(args))
    return query, retriever.retrieve(query, K if args.k is None else args.k, default=args.k is None).ids[0]
