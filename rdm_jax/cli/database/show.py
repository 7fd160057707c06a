"""`rdm database list`, `info` and `verify`: lists databases, describes one, and checks its files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rdm_jax.cli.database.common import encoder_folder, is_encoder_of, write
from rdm_jax.cli.progress import note


def add_actions(actions: Any) -> None:
    """Adds the actions."""
    names = actions.add_parser("list", help="list the databases that come with the package, or those in a folder")
    names.set_defaults(perform=run_list)
    names.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="list the databases below this folder")
    names.add_argument("--names", action="store_true", help="print only the names, one on each line")
    info = actions.add_parser("info", help="describe a database")
    info.set_defaults(perform=run_info)
    info.add_argument("database", metavar="DB", help="a name or a folder")
    info.add_argument("--verify", action="store_true", help="compare the SHA-256 of all files with the manifest")
    info.add_argument("--json", action="store_true", help="print the manifest")
    verify = actions.add_parser("verify", help="compare the SHA-256 of all files of a database with its manifest")
    verify.set_defaults(perform=run_verify)
    verify.add_argument("database", metavar="DB", help="a name or a folder")


def run_info(args: argparse.Namespace) -> None:
    """Prints a description of a database."""
    from rdm_jax.retrieval.database import Database

    database = Database.open(args.database)
    if args.verify:
        database.verify()
    if args.json:
        write(json.dumps(database.manifest, indent=2))
        return
    manifest = database.manifest
    size = sum((database.path / name).stat().st_size for name in manifest["files"])
    attributes = ", ".join(sorted(database.items([0])[0]["attributes"])) or "none"
    lines = {
        "name": database.name,
        "folder": str(database.path),
        "rows": f"{len(database)} of width {database.width}, {manifest['dtype']}, in {len(manifest['shards'])} shards",
        "encoder": f"{database.encoder['name']} (sha256 {database.encoder['sha256'][:12]})",
        "its bundle": _bundle(database),
        "thumbnails": f"{manifest['thumbnail_size']} pixels" if database.has_thumbnails else "none",
        "index": _index(manifest),
        "sources": "; ".join(map(_source, manifest["sources"])),
        "skipped": f"{len(database.skipped())} images",
        "history": "; ".join(map(_event, manifest.get("history", []))) or "unknown",
        "attributes": attributes,
        "licence": manifest.get("licence") or "not stated",
        "created": manifest.get("created", "unknown"),
        "size": f"{size / 2**20:.1f} MiB",
        "sha256": database.digest,
        "files": "verified: all match the manifest" if args.verify else "not verified (--verify)",
    }
    write(*(f"{name + ':':12} {value}" for name, value in lines.items()))


def run_verify(args: argparse.Namespace) -> None:
    """Compares all files of a database with its manifest."""
    from rdm_jax.retrieval.database import Database

    database = Database.open(args.database)
    database.verify()
    note(f"{database.path}: all {len(database.manifest['files'])} files match the manifest")


def run_list(args: argparse.Namespace) -> None:
    """Lists databases."""
    from rdm_jax.core.errors import UserError
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.manifest import MANIFEST, SCHEMA

    places: list[Any] = Database.names()
    if args.folder is not None:
        if not args.folder.is_dir():
            raise UserError(f"no folder {args.folder}; check the path")
        manifests = sorted(args.folder.rglob(MANIFEST))
        places = [path.parent for path in manifests if _is_database(path, args.folder, SCHEMA)]
    if args.names:
        write(*map(str, places))
        return
    if not places:
        note("no databases; build one by `rdm database build`")
    databases = []
    for place in places:
        try:
            databases.append(Database.open(place))
        except UserError as error:  # the others are listed nevertheless
            note(str(error))
    width = max((len(database.name) for database in databases), default=0)
    for database in databases:
        sources = ", ".join(source["name"] for source in database.manifest["sources"])
        path = "" if args.folder is None else f"  {database.path}"
        write(f"{database.name:{width}}  {len(database):6d} rows by {database.encoder['name']}, from {sources}{path}")


def _is_database(path: Path, top: Path, schema: int) -> bool:
    """Returns whether a manifest is a database's, and not one that an interrupted process left in a hidden folder."""
    if any(part.startswith(".") for part in path.relative_to(top).parts):
        return False
    from rdm_jax.core import text

    try:
        manifest = text.read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("schema") == schema and "shards" in manifest


def _bundle(database: Any) -> str:
    """Returns where the bundle of the encoder was when the database was built, and whether it is still there."""
    from rdm_jax.bundle import Bundle

    folder = encoder_folder(database)
    if not folder:
        return "comes with the package" if database.encoder["name"] in Bundle.names() else "no folder recorded"
    return folder if is_encoder_of(database, folder) else f"{folder} (no longer there)"


def _index(manifest: Any) -> str:
    if "index" not in manifest:
        return "none stored"
    parameters = ", ".join(f"{key} {value}" for key, value in manifest["index"]["parameters"].items())
    return f"{manifest['index']['kind']}: {parameters}"


def _source(source: Any) -> str:
    patches = f", {source['patches']['number']} patches per image" if source.get("patches") else ""
    licence = f", {source['licence']}" if source.get("licence") else ""
    return f"{source['name']} ({source['rows']} rows, captions from {source['captions']}{patches}{licence})"


def _event(event: Any) -> str:
    details = {key: value for key, value in event.items() if key not in ("action", "date") and value is not None}
    text = ", ".join(f"{key} {value}" for key, value in details.items())
    return f"{event['date'][:10]} {event['action']} ({text})"
