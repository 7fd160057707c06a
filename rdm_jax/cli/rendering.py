"""Options for images that go to a designer: SVG, transparency, sizes, and files named by word."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.core.rendition import Rendition
    from rdm_jax.retrieval.mixture import Mixture

SIZES = ("24", "48", "64", "256", "512")  # of core.rendition, which needs not be imported for --help


@dataclasses.dataclass(frozen=True)
class Layout:
    """What files a run has.

    Attributes:
      renditions: how images are written, of each database.
      by_word: whether they are named by their prompts.
      resume: whether the run in the output folder is continued.
    """

    renditions: Sequence[Rendition]
    by_word: bool = False
    resume: bool = False


def add_arguments(parser: Any) -> None:
    """Adds the options to an argument group."""
    parser.add_argument(
        "--svg", action="store_true", help="write an SVG beside each image, traced in the colors of the database"
    )
    parser.add_argument(
        "--transparent", action="store_true", help="write the background transparent (one-color and flat styles)"
    )
    parser.add_argument(
        "--size", choices=SIZES, metavar="S", help=f"render the images from their SVG: {', '.join(SIZES)} pixels"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out: the same command again, what is there stays"
    )


def layout(args: argparse.Namespace, databases: Sequence[Mixture | None]) -> Layout:
    """Returns the files that a run is to have.

    Args:
      args: `svg`, `transparent`, `size`, `resume` and `from_file`.
      databases: whose images the new ones are to fit; None for a run without.

    Raises:
      UserError: the options contradict each other or do not fit a database, or a library is missing.
    """
    from rdm_jax.core.rendition import Rendition

    wanted = Rendition(args.svg, args.transparent, int(args.size or 0))
    return Layout([_rendition(wanted, database) for database in databases], bool(args.from_file), args.resume)


def _rendition(wanted: Rendition, database: Mixture | None) -> Rendition:
    """Returns a rendition in the colors of a database."""
    from rdm_jax.retrieval.set_palette import palette_of_databases

    if wanted.is_plain:
        return wanted
    palette = None if database is None else palette_of_databases(database.databases)
    name = "the run" if database is None else f"database {database.name!r}"
    if palette is None and wanted.transparent:
        raise UserError(
            f"{name} has no images to take the background and the colors from, which --transparent needs; give a "
            "--database with thumbnails, or leave it out"
        )
    return dataclasses.replace(wanted, palette=palette).check(name)
