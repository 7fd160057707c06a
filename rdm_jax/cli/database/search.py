"""`rdm database search`: the nearest pictures to texts and pictures, in one database or several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.database.common import (
    add_selection,
    check_picture,
    encoder_of,
    read_picture,
    selection,
    write,
    write_picture,
)
from rdm_jax.cli.progress import note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.retrieval.encoder import ClipEncoder
    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.retrieval.retriever import Neighbors

DESCRIPTION = """Finds the nearest pictures to a text, a picture, or both.

  rdm database search my-database "a red boat" --k 12 --sheet boat.png
  rdm database search my-database --image boat.jpg --negative "a sail" --diversity 0.3
  rdm database search --database ink:0.7 --database charcoal:0.3 "a red boat"
  rdm database search my-database "a boat" --where licence=CC0 --exclude "artist=Jane Doe"

With weights each database gives its share of the neighbours; without, the best of all are taken."""

SHEET_COLUMNS = 6


def add_actions(actions: Any) -> None:
    """Adds the action."""
    parser = actions.add_parser(
        "search",
        help="find the nearest pictures to a text or a picture",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(perform=run)
    parser.add_argument(
        "given", nargs="*", metavar="DB TEXT", help="a database (unless --database names some), and what to look for"
    )
    parser.add_argument(
        "--database", action="append", default=[], metavar="NAME[:WEIGHT]", help="where to look (repeatable)"
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="look for pictures like this one (repeatable)",
    )
    parser.add_argument(
        "--image-weight",
        type=float,
        default=1.0,
        metavar="W",
        help="of a picture beside a text, whose weight is 1 (%(default)s)",
    )
    parser.add_argument(
        "--negative", action="append", default=[], metavar="TEXT", help="what is not wanted (repeatable)"
    )
    parser.add_argument("--negative-weight", type=float, default=0.5, metavar="W", help="of each (%(default)s)")
    parser.add_argument("--k", type=int, default=10, help="how many to find (%(default)s)")
    add_selection(parser, "rows")
    parser.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="0 takes the nearest, up to 1 such as differ from each other (maximal marginal relevance)",
    )
    parser.add_argument(
        "--duplicates",
        type=float,
        metavar="COSINE",
        help="leave out what has at least this cosine to a better one, such as 0.97",
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a picture of what was found (.png, .jpg)")
    parser.add_argument(
        "--encoder", metavar="BUNDLE", help="the model that made the database; by its name if not given"
    )
    parser.add_argument("--index", default="auto", metavar="KIND", help="auto, exact or scann (%(default)s)")


def run(args: argparse.Namespace) -> None:
    """Prints what is found and draws the sheet."""
    names, text = _names_and_text(args)
    check_picture(args.sheet, "--sheet")
    chosen = selection(args)

    from rdm_jax.retrieval.mixture import Mixture
    from rdm_jax.retrieval.query import mixed_query
    from rdm_jax.retrieval.retriever import Retriever

    mixture = Mixture.open(names)
    databases = mixture.databases
    pictures = [read_picture(path) for path in args.image]
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
    _tell_of_tails(encoder, [*text, *args.negative])
    query = mixed_query(
        encoder,
        text,
        pictures,
        args.negative,
        image_weight=args.image_weight,
        negative_weight=args.negative_weight,
    )
    found = retriever.retrieve(query, args.k)
    items = mixture.items(found.databases[0], found.ids[0])
    several = len(databases) > 1
    write(f"   score      row  {'database  ' if several else ''}caption (file)")
    for item, score, name in zip(items, found.scores[0].tolist(), found.databases[0].tolist(), strict=True):
        place = f"{name}  " if several else ""
        write(f"{score:8.4f} {item['row']:8d}  {place}{item['caption'] or '-'} ({item['path']})")
    if args.sheet:
        title = " + ".join(text + [f"picture {path.name}" for path in args.image])
        title += "".join(f" - {negative}" for negative in args.negative)
        sheet = result_sheet(mixture, found, pictures, f"{title} in {mixture.name}")
        write_picture(args.sheet, sheet, "--sheet")
        note(f"{args.sheet}: {len(items)} neighbours")


def result_sheet(mixture: Mixture, found: Neighbors, pictures: list[np.ndarray], title: str) -> np.ndarray:
    """Returns a contact sheet of the pictures that were asked by, and of the neighbours with score and caption."""
    import numpy as np

    from rdm_jax.core import sheets
    from rdm_jax.core.images import resize_and_crop

    names, ids = found.databases[0], found.ids[0]
    thumbnails = mixture.thumbnails(names, ids)
    size = thumbnails.shape[1]
    cells = np.stack([*(resize_and_crop(picture, size) for picture in pictures), *thumbnails])
    origins = [f" {name}" if len(mixture.databases) > 1 else "" for name in names.tolist()]
    told = zip(found.scores[0], origins, mixture.items(names, ids), strict=True)
    labels = ["query"] * len(pictures) + [f"{score:.3f}{name}\n{item['caption']}" for score, name, item in told]
    columns = min(SHEET_COLUMNS, len(cells))
    labels += [""] * (-len(labels) % columns)
    return sheets.grid(
        sheets.in_rows(cells, columns),
        cell_labels=[labels[start : start + columns] for start in range(0, len(labels), columns)],
        title=title,
        zoom=max(1, 128 // size),
    )


def _names_and_text(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Returns the databases' names and the texts; the first plain argument is a database unless --database is given."""
    names, text = (args.database, args.given) if args.database else (args.given[:1], args.given[1:])
    if not names:
        raise UserError("give a database to search: a name or a folder, or --database NAME:WEIGHT")
    if len(text) > 1:
        raise UserError(f"unexpected argument {text[1]!r}; put the TEXT into quotation marks")
    if not text and not args.image:
        raise UserError("give a TEXT or --image FILE to search by")
    if text and not text[0].strip():
        raise UserError('the TEXT is empty; say what to look for, as in "a red boat"')
    return names, text


def _tell_of_tails(encoder: ClipEncoder, texts: list[str]) -> None:
    for tail in filter(None, encoder.tokenize(texts)[1]):
        note(f"the text is too long for the encoder, which does not see its end: {tail!r}")
