"""`rdm database import`: converts databases of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rdm_jax.cli.database.common import bundle_folder
from rdm_jax.cli.progress import Progress, note
from rdm_jax.core.errors import UserError


def add_actions(actions: Any) -> None:
    """Adds the action."""
    parser = actions.add_parser(
        "import",
        help="convert CompVis's .npz files or a clip-retrieval folder to a database",
        description="Converts CompVis's .npz files or a clip-retrieval folder to a database. Rows that are not finite, "
        "or zero, have no direction: they are omitted and named.",
    )
    parser.set_defaults(perform=run)
    parser.add_argument("source", type=Path, metavar="SRC", help="an .npz file, a folder of them, or one with img_emb")
    parser.add_argument("--encoder", required=True, metavar="BUNDLE", help="the model with the CLIP of the embeddings")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write; must not exist")
    parser.add_argument("--name", help="of the database (default: the name of --out)")
    parser.add_argument("--limit", type=int, metavar="N", help="use at most the first N rows")
    parser.add_argument("--dtype", default="float16", metavar="TYPE", help="of the embeddings: float16 or float32")
    parser.add_argument("--licence", metavar="TEXT", help="of the images, recorded in the manifest")


def run(args: argparse.Namespace) -> None:
    """Imports the rows and reports their number."""
    if args.out.exists():
        raise UserError(f"{args.out} exists already; choose another folder or remove it first")

    from rdm_jax.bundle import encoder_identity, locate
    from rdm_jax.convert.databases import import_database

    folder = locate(args.encoder)
    identity = encoder_identity(folder)
    with Progress("importing", unit="row") as progress:
        count = import_database(
            args.source,
            identity,
            args.out,
            name=args.name,
            dtype=args.dtype,
            limit=args.limit,
            licence=args.licence or "",
            bundle=bundle_folder(folder),
            progress=progress,
        )
    note(f"{args.out}: {count} rows by encoder {identity['name']!r}, without images")
