"""The manifest of a database: how it is written, read and checked.

`manifest.json` holds the schema, name, count, width, dtype, the encoder with its preprocessing, where its bundle was
(`BUNDLE`), the sources, the license, the history (with what was excluded and when), the shards, the SHA-256 of each
file, and the record of the index if there is one. A folder is a database once its manifest is written.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.core import files, hub, text
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.shards import EMBEDDINGS, ITEMS, Shard, damaged

SCHEMA = 2
MANIFEST = "manifest.json"
SKIPPED = "skipped.jsonl"
DTYPES = ("float16", "float32")
NEEDED = {
    "name": str,
    "count": int,
    "width": int,
    "dtype": str,
    "encoder": dict,
    "sources": list,
    "shards": list,
    "files": dict,
    "thumbnail_size": int,
}
ENCODER = {"name": str, "sha256": str, "width": int}
SHARD = {"rows": int, EMBEDDINGS: str, ITEMS: str}
SOURCE = {"name": str, "captions": str, "rows": int}
EVENT = {"action": str, "date": str}
"""The keys that a manifest and its parts must have, with their types."""
BUNDLE = "encoder_bundle"
"""The key of the folder of the encoder's bundle, missing if it has none. It helps to find the encoder on the same
machine and is part of no hash: the SHA-256 of a bundle there decides whether it is the encoder."""
INHERITED = ("name", "encoder", BUNDLE, "thumbnail_size", "licence", "sources", "history", "created")
"""The keys of a manifest that stay true of a database made from this one."""


@dataclasses.dataclass(frozen=True)
class ManifestDraft:
    """The contents of a new manifest, except its shards.

    Attributes:
      description: name, encoder, thumbnail_size, licence, sources, history, and `created` to keep it.
      action: what is done, the next entry of the history.
      skipped: one line for each image of the sources that could not be read.
    """

    description: Mapping[str, Any]
    action: Mapping[str, Any]
    skipped: Sequence[str] = ()


def new_manifest(shards: Sequence[Shard], description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest of a database of these shards."""
    return {
        "schema": SCHEMA,
        "name": description["name"],
        "count": sum(shard.rows for shard in shards),
        **{key: value for key, value in description.items() if key != "name"},
        "shards": [shard.record() for shard in shards],
        "files": {name: value for shard in shards for name, value in shard.hashes.items()},
    }


def write_manifest(folder: Path, shards: Sequence[Shard], draft: ManifestDraft) -> None:
    """Writes the manifest that turns shards in a folder into a database.

    Args:
      folder: the folder of the shards.
      shards: the shards, in the order of their rows.
      draft: the other contents; its description has the width and the dtype of the rows too.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    history = [*draft.description.get("history", []), {**draft.action, "date": now}]
    manifest = new_manifest(shards, {"created": now, **draft.description, "history": history})
    if draft.skipped:
        files.write_bytes(folder / SKIPPED, "".join(json.dumps(line) + "\n" for line in draft.skipped).encode())
        manifest["files"][SKIPPED] = files.sha256(folder / SKIPPED)
    files.write_json(folder / MANIFEST, manifest)


def write_index_record(folder: Path, manifest: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Writes a manifest with the record of the index that lies beside the shards."""
    files.write_json(folder / MANIFEST, {**manifest, "index": record})


def inherited(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a manifest that stays true of a database made from this one."""
    return {key: manifest[key] for key in INHERITED if key in manifest}


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the manifest of a database folder.

    Raises:
      UserError: it is missing, damaged or of another schema, or names a file that is missing or outside the folder.
    """
    manifest = _parse(path)
    missing = _wrong(manifest, NEEDED)
    if missing:
        raise damaged(path, f"{MANIFEST} has no valid {', '.join(missing)}")
    if _wrong(manifest["encoder"], ENCODER):
        raise damaged(path, f"{MANIFEST} does not name by name, sha256 and width which encoder made the rows")
    if not manifest["shards"] or any(_wrong(shard, SHARD) for shard in manifest["shards"]):
        raise damaged(path, f"{MANIFEST} has no shards, or some without rows, {EMBEDDINGS} and {ITEMS}")
    for key, entry in (("sources", SOURCE), ("history", EVENT)):
        entries = manifest.get(key, [])
        if not isinstance(entries, list) or any(_wrong(one, entry) for one in entries):
            raise damaged(path, f"{MANIFEST} has {key} without {', '.join(entry)}")
    _check_files(path, manifest)
    return manifest


def read_skipped(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Returns one line for each image of the sources that was omitted, with the reason."""
    if SKIPPED not in manifest["files"]:
        return []
    try:
        return [json.loads(line) for line in text.lines(text.read(path / SKIPPED))]
    except (OSError, ValueError) as error:
        raise damaged(path, f"{SKIPPED} cannot be read ({error})") from error


def file_hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns {path: SHA-256} of all files of a database, those of its index too."""
    index = {f"index/{name}": value for name, value in manifest.get("index", {}).get("files", {}).items()}
    return {**manifest["files"], **index}


REPOSITORY = hub.Kind("database", "dataset", MANIFEST, file_hashes)
"""A database on the Hugging Face Hub."""


def verify_files(path: Path, manifest: Mapping[str, Any]) -> None:
    """Reads every file of a database and raises UserError if a SHA-256 differs from the manifest."""
    for name, expected in file_hashes(manifest).items():
        if not (path / name).is_file() or files.sha256(path / name) != expected:
            raise damaged(path, f"the SHA-256 of {name} is not the one in {MANIFEST}")


def _wrong(values: Any, kinds: Mapping[str, type]) -> list[str]:
    """Returns the keys that are missing or of another type; numbers are not negative."""
    if not isinstance(values, dict):
        return list(kinds)
    return [
        key for key, kind in kinds.items() if not isinstance(values.get(key), kind) or (kind is int and values[key] < 0)
    ]


def _parse(path: Path) -> dict[str, Any]:
    try:
        manifest = text.read_json(path / MANIFEST)
    except FileNotFoundError as error:
        raise UserError(f"{path} is not a database: it has no {MANIFEST}; make one with rdm database build") from error
    except (OSError, ValueError) as error:
        raise damaged(path, f"{MANIFEST} cannot be read ({error})") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise UserError(f"database {path} has schema {schema!r}, and this version reads {SCHEMA}; build it again")
    return manifest


def _check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raises UserError if the manifest names a file that is missing, or one outside the folder."""
    present = {entry.name for entry in path.iterdir()}
    for name in manifest["files"]:
        if Path(name).name != name:
            raise damaged(path, f"{MANIFEST} names {name!r}, which is not a file of its folder")
        if name not in present:
            raise damaged(path, f"{name} is missing")
    index = manifest.get("index", {})
    for name in [*index.get("shards", []), *index.get("files", {})]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise damaged(path, f"{MANIFEST} names {name!r}, which is not a file of its index")
