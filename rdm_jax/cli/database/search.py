"""`rdm database search`: the nearest images to texts and images, in one database or several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.database.common import (
    add_encoder,
    add_selection,
    check_image_path,
    encoder_of,
    selection,
    write,
    write_image,
)
from rdm_jax.cli.progress import note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.retrieval.retriever import Neighbors

DESCRIPTION = """Finds the nearest images to a text, an image, or both.

  rdm database search my-database "a red boat" --k 12 --sheet boat.png
  rdm database search my-database --image boat.jpg --negative "a sail" --diversity 0.3
  rdm database search --database ink:0.7 --database charcoal:0.3 "a red boat"
  rdm database search my-database "a boat" --where licence=CC0 --exclude "artist=Jane Doe"

With weights, each database contributes neighbors in proportion; without, the nearest of all are found."""

SHEET_COLUMNS = 6
K = 10


def add_actions(actions: Any) -> None:
    """Adds the action."""
    parser = actions.add_parser(
        "search",
        help="find the nearest images to a text or an image",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(perform=run)
    parser.add_argument(
        "given", nargs="*", metavar="DB TEXT", help="a database (unless --database is given), and a text to search for"
    )
    parser.add_argument(
        "--database", action="append", default=[], metavar="NAME[:WEIGHT]", help="a database to search (repeatable)"
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="an image to search for (repeatable)",
    )
    parser.add_argument(
        "--image-weight",
        type=float,
        default=1.0,
        metavar="W",
        help="of an image relative to a text (%(default)s)",
    )
    parser.add_argument(
        "--negative", action="append", default=[], metavar="TEXT", help="a text to search away from (repeatable)"
    )
    parser.add_argument(
        "--negative-weight", type=float, default=0.5, metavar="W", help="of a negative text (%(default)s)"
    )
    parser.add_argument("--k", type=int, help=f"neighbors to find ({K}, or all if there are fewer)")
    add_selection(parser, "rows")
    parser.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        metavar="D",
        help="maximal marginal relevance: from 0, the nearest, to 1, neighbors that differ from each other",
    )
    parser.add_argument(
        "--duplicates",
        type=float,
        metavar="COSINE",
        help="drop neighbors with at least this cosine to a nearer one, such as 0.97",
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write the neighbors as an image (.png, .jpg)")
    add_encoder(parser)
    parser.add_argument("--index", default="auto", metavar="KIND", help="auto, exact, scann or faiss (%(default)s)")


def run(args: argparse.Namespace) -> None:
    """Prints the neighbors and writes the sheet."""
    names, text = _names_and_text(args)
    check_image_path(args.sheet, "--sheet")
    chosen = selection(args)

    from rdm_jax.core.images import read_image
    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.retrieval.query import mixed_query
    from rdm_jax.retrieval.retriever import Retriever

    mixture = Mixture.open(names)
    databases = mixture.databases
    images = [read_image(path) for path in args.image]
    encoder = encoder_of(databases[0], args.encoder)
    retriever = Retriever(
        encoder,
        databases,
        mixture.weights,
        index=args.index,
        selection=chosen,
        diversity=args.diversity,
        duplicates=args.duplicates,
    )
    query = mixed_query(
        encoder,
        text,
        images,
        args.negative,
        image_weight=args.image_weight,
        negative_weight=args.negative_weight,
    )
    neighbors = retriever.retrieve(query, K if args.k is None else args.k, default=args.k is None)
    items = mixture.items(neighbors.databases[0], neighbors.ids[0])
    several = len(databases) > 1
    write(f"   score      row  {'database  ' if several else ''}caption (file)")
    for item, score, name in zip(items, neighbors.scores[0].tolist(), neighbors.databases[0].tolist(), strict=True):
        origin = f"{name}  " if several else ""
        write(f"{score:8.4f} {item['row']:8d}  {origin}{item['caption'] or '-'} ({item['path']})")
    if args.sheet:
        title = " + ".join(text + [f"image {path.name}" for path in args.image])
        title += "".join(f" - {negative}" for negative in args.negative)
        sheet = result_sheet(mixture, neighbors, images, f"{title} in {mixture.name}")
        write_image(args.sheet, sheet, "--sheet")
        note(f"{args.sheet}: {len(items)} neighbors")


def result_sheet(mixture: Mixture, neighbors: Neighbors, images: list[np.ndarray], title: str) -> np.ndarray:
    """Returns a contact sheet of the query images, and of the neighbors with score and caption."""
    import numpy as np

    from rdm_jax.core import sheets
    from rdm_jax.core.images import resize_and_crop

    names, ids = neighbors.databases[0], neighbors.ids[0]
    thumbnails = mixture.thumbnails(names, ids)
    size = thumbnails.shape[1]
    cells = np.stack([*(resize_and_crop(image, size) for image in images), *thumbnails])
    origins = [f" {name}" if len(mixture.databases) > 1 else "" for name in names.tolist()]
    rows = zip(neighbors.scores[0], origins, mixture.items(names, ids), strict=True)
    labels = ["query"] * len(images) + [f"{score:.3f}{name}\n{item['caption']}" for score, name, item in rows]
    columns = min(SHEET_COLUMNS, len(cells))
    labels += [""] * (-len(labels) % columns)
    return sheets.grid(
        sheets.in_rows(cells, columns),
        cell_labels=[labels[start : start + columns] for start in range(0, len(labels), columns)],
        title=title,
        zoom=max(1, 128 // size),
    )


def _names_and_text(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Returns the names of the databases, and the text; without --database, the first argument is a database."""
    names, text = (args.database, args.given) if args.database else (args.given[:1], args.given[1:])
    if not names:
        raise UserError("give a database to search: a name or a folder, or --database NAME:WEIGHT")
    if len(text) > 1:
        raise UserError(f"unexpected argument {text[1]!r}; put the TEXT in quotes")
    if not text and not args.image:
        raise UserError("give a TEXT or --image FILE to search for")
    if text and not text[0].strip():
        raise UserError('the TEXT is empty; write what to search for, as in "a red boat"')
    return names, text
