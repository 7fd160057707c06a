"""Options, checks and output that several actions on databases have in common."""

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
IMAGE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def add_selection(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --where, --exclude and --exclude-list."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"use {what} with this attribute (also path, caption, id, sha256); repeatable, all must hold",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"drop {what} with this attribute (repeatable)",
    )
    parser.add_argument(
        "--exclude-list",
        type=Path,
        metavar="FILE",
        help="drop what a text file lists: a path, FOLDER/ or KEY=VALUE on each line",
    )


def selection(args: argparse.Namespace) -> Selection:
    """Returns the selection of those options."""
    from rdm_jax.data.selection import Selection, parse_terms, read_exclusions

    listed = read_exclusions(args.exclude_list) if args.exclude_list else ()
    return Selection(parse_terms(args.where, "--where"), (*parse_terms(args.exclude, "--exclude"), *listed))


def add_duplicates(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --duplicates."""
    parser.add_argument(
        "--duplicates",
        type=float,
        metavar="COSINE",
        help=f"drop {what} with at least this cosine to an earlier one, such as 0.97",
    )


def check_range(option: str, value: float | int, low: float | int, high: float | int, hint: str = "") -> None:
    """Raises UserError if the number of an option is out of range."""
    if not low <= value <= high:
        raise UserError(f"{option} {value} is out of range; give {low} to {high}{hint}")


def check_local(place: str, option: str) -> Path:
    """Returns the folder of an option; raises UserError if it is in object storage, and a local one is needed."""
    from rdm_jax.core import paths

    if paths.is_remote(place):
        raise UserError(f"{option} {place} is no local folder; use a local one and copy it afterwards")
    return paths.local(place)


def report_skipped(skipped: list[str], record: str) -> None:
    """Reports the images that could not be read, the first few by name.

    Args:
      skipped: one line for each, with its path and the reason.
      record: the file that lists all of them.
    """
    from rdm_jax.core.left_out import of_lines

    if skipped:
        note(f"{of_lines(skipped)}; {record} lists all of them")


def encoder_of(database: Database, given: str | None) -> ClipEncoder:
    """Returns the encoder of a model, or by default the one that built a database."""
    from rdm_jax.bundle import Bundle
    from rdm_jax.retrieval.encoder import ClipEncoder

    return ClipEncoder(Bundle.open(encoder_place(database, given), parts=("clip",)))


def encoder_place(database: Database, given: str | None) -> str:
    """Returns the name or folder of a model: the given one, or the one that built a database.

    Raises:
      UserError: no model is given, and the one that built the database is neither where it was nor in the package.
    """
    from rdm_jax.bundle import Bundle

    if given is not None:
        return given
    name, folder = str(database.encoder["name"]), encoder_folder(database)
    if folder and is_encoder_of(database, folder):
        return folder
    if name in Bundle.names():
        return name
    where = f", and is no longer in {folder}" if folder else ""
    raise UserError(
        f"database {database.name!r} was made by encoder {name!r}, which does not come with this installation{where}; "
        "give its model by --encoder"
    )


def encoder_folder(database: Database) -> str:
    """Returns the folder in which the bundle of a database's encoder was when it was built, "" if it is unknown."""
    from rdm_jax.retrieval.manifest import BUNDLE

    return str(database.manifest.get(BUNDLE) or "")


def is_encoder_of(database: Database, folder: str) -> bool:
    """Returns whether a folder holds the bundle of a database's encoder, by the SHA-256 in its config."""
    from rdm_jax.bundle import encoder_identity

    try:
        identity = encoder_identity(Path(folder))
    except UserError:
        return False
    return all(identity[key] == database.encoder[key] for key in ("sha256", "width"))


def bundle_folder(folder: Path | None) -> str:
    """Returns the folder of a bundle for the manifest of its databases, "" for one that comes with the package."""
    from rdm_jax.bundle import EMBEDDED

    return "" if folder is None or folder.parent == EMBEDDED else str(folder.resolve())


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Adds --encoder, of an action on a database that exists."""
    parser.add_argument(
        "--encoder",
        metavar="BUNDLE",
        help="the model that built the database (default: where it was then, or in the package)",
    )


def update_index(path: Path, earlier: Mapping[str, Any] | None = None) -> None:
    """Indexes a new or changed database if it is large or had an index before."""
    from rdm_jax.cli.progress import Progress, shown_log
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.indexing import rebuild_index

    with shown_log(), Progress("indexing", unit="row") as progress:
        database = rebuild_index(Database.open(path), earlier or {}, progress)
    if "index" in database.manifest:
        note(f"{path}: indexed; `rdm database tune` measures its recall")


def check_image_path(path: Path | None, option: str) -> None:
    """Raises UserError if no image can be written to the path of an option."""
    if path is None:
        return
    if path.suffix.lower() not in IMAGE_FORMATS:
        raise unknown("image format", path.suffix, IMAGE_FORMATS)
    if path.exists():
        raise UserError(f"{path} exists already and is not overwritten; choose another {option}")


def write_image(path: Path, image: np.ndarray, option: str) -> None:
    """Writes an image file atomically."""
    from PIL import Image

    from rdm_jax.core import files

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, IMAGE_FORMATS[path.suffix.lower()])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {option} {path}: {error.strerror or error}; choose another path") from error


def write(*lines: str) -> None:
    """Writes lines to standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
