"""Continuing a run that was stopped: the images that are there stay, and the others are generated."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.cli import records, run_folder
from rdm_jax.cli.png import read_record
from rdm_jax.core import files, text
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Plan
from rdm_jax.retrieval.mixture import Mixture

SAME = (
    "prompts",
    "request",
    "options",
    "files",
    "model",
    "databases",
    "renditions",
    "content_databases",
    "sweep",
)
"""What of run.json must be equal for a run to be continued; versions may differ."""


def read_run(out: Path) -> dict[str, Any]:
    """Returns the run.json of a folder.

    Raises:
      UserError: there is none, or it has recorded no image.
    """
    try:
        run = text.read_json(out / run_folder.RUN)
    except (OSError, ValueError) as error:
        raise UserError(f"{out} holds no run to resume ({error}); leave --resume out") from error
    if not isinstance(run, dict) or not isinstance(run.get("request"), dict) or not run.get("images"):
        raise UserError(f"{out} holds a run without images; leave --resume out, or choose another --out")
    return run


def check_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises UserError unless two contents of run.json are of one run.

    Args:
      out: the folder.
      before: of the run in it.
      now: of the run that is to continue it, with no images.
    """
    wanted = json.loads(files.json_bytes(now))
    different = next((key for key in SAME if before.get(key) != wanted.get(key)), None)
    if different is None:
        return
    old, new = before.get(different), wanted.get(different)
    if isinstance(old, dict) and isinstance(new, dict):
        different = next(key for key in {**old, **new} if old.get(key) != new.get(key))
    raise UserError(
        f"the run in {out} has another value of {different.replace('_', ' ')}; give the same command again, or choose "
        "another --out"
    )


def written(
    folder: Path,
    before: Mapping[str, Any],
    plans: Sequence[Plan],
    names: Mapping[tuple[int, int], Path],
    databases: Sequence[Mixture | None],
) -> dict[tuple[int, int], dict[str, Any]]:
    """Returns run.json's entry of each image that is there, by (number of the plan, index).

    An image that was written after the last record of the run carries its own record.

    Args:
      folder: of the run.
      before: its run.json.
      plans: of the whole run, one for each database or cell of a sweep.
      names: the file of each image.
      databases: of the run.
    """
    recorded = {entry["file"]: entry for entry in before["images"]}
    found = {}
    for number, plan in enumerate(plans):
        for index in plan.indices:
            file = names[number, index]
            if not (folder / file).is_file():
                continue
            entry = recorded.get(file.as_posix()) or _own_entry(folder, file, plan, index, databases[number])
            if entry is not None:
                found[number, index] = entry
    return found


def rest(plan: Plan, done: Sequence[int]) -> Plan:
    """Returns the plan of the images that are not there yet, by the indices of those that are."""
    there = set(done)
    left = [(index, row) for index, row in zip(plan.indices, plan.rows, strict=True) if index not in there]
    return dataclasses.replace(plan, indices=[index for index, _ in left], rows=[row for _, row in left])


def _own_entry(folder: Path, file: Path, plan: Plan, index: int, database: Mixture | None) -> dict[str, Any] | None:
    """Returns the entry of an image by the record in its file; None if that is of another run, or is missing."""
    try:
        record, _ = read_record(folder / file)
    except UserError:
        return None
    if (record["index"], record["request"].get("seed")) != (index, plan.request.seed):
        return None
    vector = file.with_suffix(".svg")
    return {
        **records.run_entry(file, record, database),
        **({"svg": vector.as_posix()} if (folder / vector).is_file() else {}),
    }
