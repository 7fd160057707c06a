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
SHOWN_SKIPS = 10
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


def check_local(place: str, option: str) -> None:
    """Raises UserError if an option names a folder in object storage, and a local one is needed."""
    from rdm_jax.core.storage import is_remote

    if is_remote(place):
        raise UserError(f"{option} {place} is no local folder; use a local one and copy it afterwards")


def report_skipped(skipped: list[str]) -> None:
    """Reports the images that could not be read, the first few by name."""
    for line in skipped[:SHOWN_SKIPS]:
        note(f"skipped {line}")
    if len(skipped) > SHOWN_SKIPS:
        note(f"skipped {len(skipped) - SHOWN_SKIPS} more; skipped.jsonl lists all of them")


def encoder_of(database: Database, given: str | None) -> ClipEncoder:
    """Returns the encoder of a model, or by default the one that built a database, found by its name."""
    from rdm_jax.bundle import Bundle
    from rdm_jax.retrieval.encoder import ClipEncoder

    name = given or str(database.encoder["name"])
    if given is None and name not in Bundle.names():
        raise UserError(
            f"database {database.name!r} was made by encoder {name!r}, which does not come with this installation; "
            "give its model by --encoder"
        )
    return ClipEncoder(Bundle.open(name, parts=("clip",)))


def update_index(path: Path, earlier: Mapping[str, Any] | None = None) -> None:
    """Indexes a new or changed database if it is large or had an index before."""
    from rdm_jax.cli.progress import Progress, shown_log
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.indexing import rebuild_index

    with shown_log(), Progress("indexing", unit="row") as progress:
        database = rebuild_index(Database.open(path), earlier or {}, progress)
    if "index" in database.manifest:
        note(f"{path}: indexed; `rdm database tune` measures its recall")


def read_image(path: Path) -> Any:
    """Returns the image of --image; raises UserError if it cannot be read."""
    from rdm_jax.core.images import decode

    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read --image {path}: {error.strerror}; give an image file") from error
    except ValueError as error:
        raise UserError(f"--image {path}: {error}; give a JPEG, PNG, WebP, BMP, TIFF or GIF") from error


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
        raise UserError(f"cannot write {option} {path}: {error.strerror}; choose another path") from error


def write(*lines: str) -> None:
    """Writes lines to standard output."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
