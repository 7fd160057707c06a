"""`rdm database`: builds databases of pictures, says what is in them and searches them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.progress import Progress, note
from rdm_jax.core.errors import UserError, unknown

if TYPE_CHECKING:
    from rdm_jax.data.sources import Example
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.retriever import Neighbors

HELP = """build and look at databases of pictures to retrieve from

  rdm database build my-pictures --out my-database
  rdm database build pictures.zip --out ink --name ink --limit 5000
  rdm database build style_scenes/tiny --split train --where style=mosaic --out mosaic
  rdm database info my-database --verify
  rdm database search my-database "a red boat" --k 12 --sheet boat.png
  rdm database search my-database --image boat.jpg
  rdm database import openimages/ --encoder clip-vit-l14 --out openimages
  rdm database list

A folder's captions come from metadata.jsonl or metadata.csv (file_name, text), from a .txt file beside each picture, or
from the names of the sub-folders."""

DEFAULT_ENCODER = "style-scenes"
SHOWN_SKIPS = 10
SHEET_COLUMNS = 6
SHEET_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = verbs.add_parser("build", help="make a database of a folder, a .zip or a TFDS set")
    build.add_argument("source", metavar="FOLDER|ZIP|TFDS", help="where the pictures are")
    build.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write; must not exist")
    build.add_argument("--encoder", default=DEFAULT_ENCODER, metavar="BUNDLE", help="a model with a CLIP (%(default)s)")
    build.add_argument("--split", help="of a TFDS set, or a sub-folder train, validation or test")
    build.add_argument("--data-dir", metavar="DIR", help="where TFDS keeps its sets")
    build.add_argument("--name", help="how the database calls itself; the name of --out by default")
    build.add_argument("--limit", type=int, metavar="N", help="take the first N pictures at most")
    build.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="take pictures with this "
                       "attribute; given more than once, all must hold")  # fmt: skip
    build.add_argument(
        "--thumbnail-size", type=int, default=64, metavar="PIXELS", help="of stored pictures (%(default)s)"
    )
    build.add_argument("--quality", type=int, default=80, help="of stored pictures, 1 to 100 (%(default)s)")
    build.add_argument("--dtype", default="float16", metavar="TYPE", help="of the rows: float16 (default) or float32")
    build.add_argument("--max-skip", type=float, default=0.05, metavar="SHARE", help="fail if more than this share of "
                       "the pictures cannot be read (%(default)s)")  # fmt: skip
    build.add_argument("--licence", default="", metavar="TEXT", help="of the pictures, for the manifest")
    foreign = verbs.add_parser(
        "import", help="take over the rows of CompVis's .npz files or of a clip-retrieval folder"
    )
    foreign.add_argument("source", type=Path, metavar="SRC", help="an .npz file, a folder of them, or one with img_emb")
    foreign.add_argument("--encoder", required=True, metavar="BUNDLE", help="the model whose CLIP made the rows")
    foreign.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write; must not exist")
    foreign.add_argument("--name", help="how the database calls itself; the name of --out by default")
    foreign.add_argument("--limit", type=int, metavar="N", help="take the first N rows at most")
    foreign.add_argument("--dtype", default="float16", metavar="TYPE", help="of the rows: float16 (default) or float32")
    foreign.add_argument("--licence", default="", metavar="TEXT", help="of the pictures, for the manifest")
    info = verbs.add_parser("info", help="say what is in a database")
    info.add_argument("database", metavar="DB", help="a name or a folder")
    info.add_argument("--verify", action="store_true", help="read all files and compare their SHA-256")
    search = verbs.add_parser("search", help="find the nearest pictures to a text or a picture")
    search.add_argument("database", metavar="DB", help="a name or a folder")
    search.add_argument("text", nargs="?", metavar="TEXT", help="what to look for")
    search.add_argument("--image", type=Path, metavar="FILE", help="look for pictures like this one")
    search.add_argument("--k", type=int, default=10, help="how many to find (%(default)s)")
    search.add_argument("--sheet", type=Path, metavar="FILE", help="write a picture of what was found (.png, .jpg)")
    search.add_argument(
        "--encoder", metavar="BUNDLE", help="the model that made the database; by its name if not given"
    )
    search.add_argument("--index", default="auto", metavar="KIND", help="auto, exact or scann (%(default)s)")
    names = verbs.add_parser("list", help="list the databases that come with the package")
    names.add_argument("--names", action="store_true", help="the names alone, one a line")


def run(args: argparse.Namespace) -> None:
    """Does what the sub-verb says."""
    {"build": _build, "import": _import, "info": _info, "search": _search, "list": _list}[args.action](args)


def report_skipped(skipped: list[str]) -> None:
    """Says which pictures could not be read, the first few by name."""
    for line in skipped[:SHOWN_SKIPS]:
        note(f"skipped {line}")
    if len(skipped) > SHOWN_SKIPS:
        note(f"skipped {len(skipped) - SHOWN_SKIPS} more; manifest.json names all")


def _build(args: argparse.Namespace) -> None:
    _check_range("--thumbnail-size", args.thumbnail_size, 8, 1024)
    _check_range("--quality", args.quality, 1, 100)
    _check_range("--max-skip", args.max_skip, 0, 1)
    if args.out.exists():
        raise UserError(f"{args.out} exists already; choose another folder or remove it first")
    where = _condition(args.where)

    from rdm_jax.bundle import Bundle
    from rdm_jax.data.sources import open_source
    from rdm_jax.retrieval.build import build_database
    from rdm_jax.retrieval.encoder import ClipEncoder

    source = open_source(args.source, args.split, args.data_dir)
    note(f"{source.name}: {len(source)} pictures, captions from {source.captions}")
    encoder = ClipEncoder(Bundle.open(args.encoder, parts=("clip",)))
    with Progress("embedding", unit="picture") as progress:
        report = build_database(
            source,
            encoder,
            args.out,
            name=args.name,
            thumbnail_size=args.thumbnail_size,
            quality=args.quality,
            dtype=args.dtype,
            limit=args.limit,
            where=where,
            max_skip=args.max_skip,
            licence=args.licence,
            progress=progress,
        )
    report_skipped(report.skipped)
    note(f"{report.path}: {report.count} rows by encoder {encoder.identity['name']!r}, {len(report.skipped)} skipped")


def _import(args: argparse.Namespace) -> None:
    if args.out.exists():
        raise UserError(f"{args.out} exists already; choose another folder or remove it first")

    from rdm_jax.bundle import encoder_identity, locate
    from rdm_jax.convert.databases import import_database

    identity = encoder_identity(locate(args.encoder))
    with Progress("importing", unit="row") as progress:
        count = import_database(
            args.source,
            identity,
            args.out,
            name=args.name,
            dtype=args.dtype,
            limit=args.limit,
            licence=args.licence,
            progress=progress,
        )
    note(f"{args.out}: {count} rows by encoder {identity['name']!r}, without pictures")


def _info(args: argparse.Namespace) -> None:
    from rdm_jax.retrieval.database import Database

    database = Database.open(args.database)
    if args.verify:
        database.verify()
    made = database.manifest
    source = made.get("source", {})
    size = sum((database.path / name).stat().st_size for name in made["files"])
    lines = {
        "name": database.name,
        "folder": str(database.path),
        "rows": f"{len(database)} of width {database.width}, {made['dtype']}",
        "encoder": f"{database.encoder['name']} (sha256 {database.encoder['sha256'][:12]})",
        "thumbnails": f"{made['thumbnail_size']} pixels" if database.has_thumbnails else "none",
        "source": f"{source.get('name', 'unknown')} ({len(made.get('skipped', []))} pictures skipped)",
        "captions": source.get("captions", "unknown"),
        "attributes": ", ".join(sorted(database.items([0])[0]["attributes"])) or "none",
        "licence": made.get("licence") or "not stated",
        "size": f"{size / 2**20:.1f} MiB",
        "sha256": database.digest,
        "files": "all as the manifest says" if args.verify else "not verified; --verify reads them",
    }
    _write(*(f"{name + ':':12} {value}" for name, value in lines.items()))


def _search(args: argparse.Namespace) -> None:
    if (args.text is None) == (args.image is None):
        raise UserError("give a TEXT or --image FILE to search by, one of them")
    if args.image is None and not args.text.strip():
        raise UserError('the TEXT is empty; say what to look for, as in "a red boat"')
    if args.sheet and args.sheet.suffix.lower() not in SHEET_KINDS:
        raise unknown("kind of sheet", args.sheet.suffix, SHEET_KINDS)
    if args.sheet and args.sheet.exists():
        raise UserError(f"{args.sheet} exists already and is not overwritten; choose another --sheet")

    from rdm_jax.bundle import Bundle
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.encoder import ClipEncoder
    from rdm_jax.retrieval.retriever import Retriever

    database = Database.open(args.database)
    _check_range("--k", args.k, 1, len(database), f"; database {database.name!r} has {len(database)} rows")
    picture = _read_picture(args.image) if args.image else None
    encoder = ClipEncoder(Bundle.open(args.encoder or _encoder_of(database), parts=("clip",)))
    retriever = Retriever(encoder, [database], index=args.index)
    if picture is None:
        tail = encoder.tokenize([args.text])[1][0]
        if tail:
            note(f"the text is too long for the encoder, which does not see its end: {tail!r}")
    query = encoder.encode_texts([args.text]) if picture is None else encoder.encode_images([picture])
    found = retriever.retrieve(query, args.k)
    items = database.items(found.ids[0])
    _write("   score      row  caption (file)")
    _write(
        *(
            f"{score:8.4f} {item['id']:8d}  {item['caption'] or '-'} ({item['path']})"
            for item, score in zip(items, found.scores[0].tolist(), strict=True)
        )
    )
    if args.sheet:
        _write_sheet(args.sheet, database, found, picture, args.text)


def _list(args: argparse.Namespace) -> None:
    from rdm_jax.retrieval.database import Database

    names = Database.names()
    if args.names:
        _write(*names)
        return
    if not names:
        note("no databases come with this installation; make one by rdm database build")
    width = max(map(len, names), default=0)
    for database in map(Database.open, names):
        source = database.manifest.get("source", {}).get("name", "unknown")
        _write(f"{database.name:{width}}  {len(database):6d} rows by {database.encoder['name']}, from {source}")


def _condition(where: list[str]) -> Callable[[Example], bool] | None:
    pairs = [text.partition("=") for text in where]
    for text, (key, equals, _) in zip(where, pairs, strict=True):
        if not key or not equals:
            raise UserError(f"--where {text!r} is not KEY=VALUE, as in --where style=mosaic")
    if not pairs:
        return None
    return lambda example: all(example.attributes.get(key) == value for key, _, value in pairs)


def _check_range(option: str, value: float | int, low: float | int, high: float | int, hint: str = "") -> None:
    if not low <= value <= high:
        raise UserError(f"{option} {value} is out of range; give {low} to {high}{hint}")


def _read_picture(path: Path) -> Any:
    from rdm_jax.core.images import decode

    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read --image {path}: {error.strerror}; give a picture file") from error
    except ValueError as error:
        raise UserError(f"--image {path}: {error}; give a JPEG, PNG, WebP, BMP, TIFF or GIF") from error


def _encoder_of(database: Database) -> str:
    from rdm_jax.bundle import Bundle

    name = str(database.encoder["name"])
    if name not in Bundle.names():
        raise UserError(
            f"database {database.name!r} was made by encoder {name!r}, which does not come with this installation; "
            "name its model by --encoder"
        )
    return name


def _write_sheet(path: Path, database: Database, found: Neighbors, picture: Any, text: str | None) -> None:
    import io

    import numpy as np
    from PIL import Image

    from rdm_jax.core import files, sheets
    from rdm_jax.core.images import resize_and_crop

    pictures = database.thumbnails(found.ids[0])
    size = pictures.shape[1]
    items = database.items(found.ids[0])
    labels = [f"{score:.3f}\n{item['caption']}" for score, item in zip(found.scores[0], items, strict=True)]
    if picture is not None:
        pictures, labels = np.concatenate([resize_and_crop(picture, size)[None], pictures]), ["query", *labels]
    columns = min(SHEET_COLUMNS, len(pictures))
    labels += [""] * (-len(labels) % columns)
    sheet = sheets.grid(
        sheets.in_rows(pictures, columns),
        cell_labels=[labels[start : start + columns] for start in range(0, len(labels), columns)],
        title=f"{text or 'pictures like the first'} - in {database.name}",
        zoom=max(1, 128 // size),
    )
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, SHEET_KINDS[path.suffix.lower()])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"cannot write --sheet {path}: {error.strerror}; choose another place") from error
    note(f"{path}: {len(items)} neighbours")


def _write(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
