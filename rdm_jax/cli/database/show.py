"""`rdm database list`, `info` and `verify`: what databases there are and what is in one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rdm_jax.cli.database.common import write
from rdm_jax.cli.progress import note


def add_actions(actions: Any) -> None:
    """Adds the actions."""
    names = actions.add_parser("list", help="list the databases that come with the package, or those in a folder")
    names.set_defaults(perform=run_list)
    names.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="look for databases below this folder")
    names.add_argument("--names", action="store_true", help="the names alone, one a line")
    info = actions.add_parser("info", help="say what is in a database")
    info.set_defaults(perform=run_info)
    info.add_argument("database", metavar="DB", help="a name or a folder")
    info.add_argument("--verify", action="store_true", help="read all files and compare their SHA-256")
    info.add_argument("--json", action="store_true", help="write the manifest")
    verify = actions.add_parser("verify", help="read all files of a database and compare their SHA-256")
    verify.set_defaults(perform=run_verify)
    verify.add_argument("database", metavar="DB", help="a name or a folder")


def run_info(args: argparse.Namespace) -> None:
    """Says what is in a database."""
    from rdm_jax.retrieval.database import Database

    database = Database.open(args.database)
    if args.verify:
        database.verify()
    if args.json:
        write(json.dumps(database.manifest, indent=2))
        return
    made = database.manifest
    size = sum((database.path / name).stat().st_size for name in made["files"])
    attributes = ", ".join(sorted(database.items([0])[0]["attributes"])) or "none"
    lines = {
        "name": database.name,
        "folder": str(database.path),
        "rows": f"{len(database)} of width {database.width}, {made['dtype']}, in {len(made['shards'])} shards",
        "encoder": f"{database.encoder['name']} (sha256 {database.encoder['sha256'][:12]})",
        "thumbnails": f"{made['thumbnail_size']} pixels" if database.has_thumbnails else "none",
        "index": _index(made),
        "sources": "; ".join(map(_source, made["sources"])),
        "skipped": f"{len(database.skipped())} pictures",
        "history": "; ".join(map(_event, made.get("history", []))) or "unknown",
        "attributes": attributes,
        "licence": made.get("licence") or "not stated",
        "made": made.get("created", "unknown"),
        "size": f"{size / 2**20:.1f} MiB",
        "sha256": database.digest,
        "files": "all as the manifest says" if args.verify else "not verified; --verify reads them",
    }
    write(*(f"{name + ':':12} {value}" for name, value in lines.items()))


def run_verify(args: argparse.Namespace) -> None:
    """Compares all files of a database with its manifest."""
    from rdm_jax.retrieval.database import Database

    database = Database.open(args.database)
    database.verify()
    note(f"{database.path}: all {len(database.manifest['files'])} files are as the manifest says")


def run_list(args: argparse.Namespace) -> None:
    """Lists databases."""
    from rdm_jax.core.errors import UserError
    from rdm_jax.retrieval.database import Database
    from rdm_jax.retrieval.manifest import MANIFEST, SCHEMA

    found: list[Any] = Database.names()
    if args.folder is not None:
        if not args.folder.is_dir():
            raise UserError(f"no folder {args.folder}; check the path")
        manifests = sorted(args.folder.rglob(MANIFEST))
        found = [path.parent for path in manifests if _is_database(path, args.folder, SCHEMA)]
    if args.names:
        write(*map(str, found))
        return
    if not found:
        note("no databases there; make one by rdm database build")
    databases = []
    for one in found:
        try:
            databases.append(Database.open(one))
        except UserError as error:  # the others are listed all the same
            note(str(error))
    width = max((len(database.name) for database in databases), default=0)
    for database in databases:
        sources = ", ".join(source["name"] for source in database.manifest["sources"])
        place = "" if args.folder is None else f"  {database.path}"
        write(f"{database.name:{width}}  {len(database):6d} rows by {database.encoder['name']}, from {sources}{place}")


def _is_database(path: Path, top: Path, schema: int) -> bool:
    """Says whether a manifest is that of a database, and none that a stopped process has left in a hidden folder."""
    if any(part.startswith(".") for part in path.relative_to(top).parts):
        return False
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("schema") == schema and "shards" in manifest


def _index(made: Any) -> str:
    if "index" not in made:
        return "none stored"
    told = ", ".join(f"{key} {value}" for key, value in made["index"]["parameters"].items())
    return f"{made['index']['kind']}: {told}"


def _source(source: Any) -> str:
    patches = f", {source['patches']['number']} patches a picture" if source.get("patches") else ""
    licence = f", {source['licence']}" if source.get("licence") else ""
    return f"{source['name']} ({source['rows']} rows, captions from {source['captions']}{patches}{licence})"


def _event(event: Any) -> str:
    told = {key: value for key, value in event.items() if key not in ("action", "date") and value is not None}
    listed = ", ".join(f"{key} {value}" for key, value in told.items())
    return f"{event['date'][:10]} {event['action']} ({listed})"
