"""What several actions on databases share: options, names with weights, pictures, and what is written."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.progress import note
from rdm_jax.core.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from rdm_jax.data.selection import Selection
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.encoder import ClipEncoder

DEFAULT_ENCODER = "style-scenes"
SHOWN_SKIPS = 10
SHEET_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def add_selection(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --where, --exclude and --exclude-list."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"take {what} with this attribute (also path, caption, id, sha256); given more than once, all must hold",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"leave out {what} with this attribute (repeatable)",
    )
    parser.add_argument(
        "--exclude-list",
        type=Path,
        metavar="FILE",
        help="leave out what a text file lists: a path (or FOLDER/) or KEY=VALUE on each line",
    )


def selection(args: argparse.Namespace) -> Selection:
    """Returns what those options say."""
    from rdm_jax.data.selection import Selection, parse_terms, read_exclusions

    listed = read_exclusions(args.exclude_list) if args.exclude_list else ()
    return Selection(parse_terms(args.where, "--where"), (*parse_terms(args.exclude, "--exclude"), *listed))


def add_duplicates(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --duplicates."""
    parser.add_argument(
        "--duplicates",
        type=float,
        metavar="COSINE",
        help=f"leave out {what} with at least this cosine to an earlier one, such as 0.97",
    )


def check_range(option: str, value: float | int, low: float | int, high: float | int, hint: str = "") -> None:
    """Raises UserError where an option's number is out of its range."""
    if not low <= value <= high:
        raise UserError(f"{option} {value} is out of range; give {low} to {high}{hint}")


def check_local(place: str, option: str) -> None:
    """Raises UserError where an option names a place in object storage, and one on the local disk is needed."""
    from rdm_jax.core.storage import is_remote

    if is_remote(place):
        raise UserError(f"{option} {place} is no local folder; work on a local one and copy it there")


def report_skipped(skipped: list[str]) -> None:
    """Says which pictures could not be read, the first few by name."""
    for line in skipped[:SHOWN_SKIPS]:
        note(f"skipped {line}")
    if len(skipped) > SHOWN_SKIPS:
        note(f"skipped {len(skipped) - SHOWN_SKIPS} more; skipped.jsonl names all")


def encoder_of(database: Database, given: str | None) -> ClipEncoder:
    """Returns the encoder that is given, or the one that made a database, by its name."""
    from rdm_jax.bundle import Bundle
    from rdm_jax.retrieval.encoder import ClipEncoder

    name = given or str(database.encoder["name"])
    if given is None and name not in Bundle.names():
        raise UserError(
            f"database {database.name!r} was made by encoder {name!r}, which does not come with this installation; "
            "name its model by --encoder"
        )
    return ClipEncoder(Bundle.open(name, parts=("clip",)))


def index_again(path: Path, earlier: Mapping[str, Any] | None = None) -> None:
    """Indexes a database that was made or changed, where it is large or had an index before."""
    from rdm_jax.cli.progress import Progress, shown_log
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.indexing import rebuild_index

    with shown_log(), Progress("indexing", unit="row") as progress:
        database = rebuild_index(Database.open(path), earlier or {}, progress)
    if "index" in database.manifest:
        note(f"{path}: indexed; rdm database tune measures its recall")


def read_picture(path: Path) -> Any:
    """Returns the picture of --image; raises UserError where it cannot be read."""
    from rdm_jax.core.images import decode

    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read --image {path}: {error.strerror}; give a picture file") from error
    except ValueError as error:
        raise UserError(f"--image {path}: {error}; give a JPEG, PNG, WebP, BMP, TIFF or GIF") from error


def check_picture(path: Path | None, option: str) -> None:
    """Raises UserError where a picture cannot be written to the place that an option names."""
    if path is None:
        return
    if path.suffix.lower() not in SHEET_KINDS:
        raise unknown("kind of picture", path.suffix, SHEET_KINDS)
    if path.exists():
        raise UserError(f"{path} exists already and is not overwritten; choose another {option}")


def write_picture(path: Path, picture: np.ndarray, option: str) -> None:
    """Writes a picture, whole or not at all."""
    from PIL import Image

    from rdm_jax.core import files

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, SHEET_KINDS[path.suffix.lower()])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {option} {path}: {error.strerror}; choose another place") from error


def write(*lines: str) -> None:
    """Writes lines to standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
