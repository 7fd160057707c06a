"""The folder of a run: claimed by one process, and nothing in it is ever overwritten."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.cli.png import SCHEMA
from rdm_jax.cli.progress import note
from rdm_jax.core import files
from rdm_jax.core.errors import UserError

RUN = "run.json"
RESULTS = "results.json"
# The content of a record before the run has written anything.
UNFINISHED = {"schema": SCHEMA, "complete": False, "images": []}


def check_writable(out: Path) -> None:
    """Raises UserError unless the folder exists or can be created, and can be written to."""
    nearest = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"cannot write to {out}: {nearest} is not a folder; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {out}: permission denied; choose another --out")


@contextlib.contextmanager
def claimed(out: Path, names: Sequence[str] = (), record: str = RUN, claimed: bool = False) -> Iterator[Path]:
    """Creates and yields the folder of a run: `out`, or `out/run-002` and so on where `out` holds a run already.

    The run claims its folder by creating its record, which no other process can then create: two runs with one `out`
    never share a folder. A run that fails before it writes anything leaves nothing.

    Args:
      out: the output folder.
      names: subfolders that the run will write to.
      record: the name of the run's record.
      claimed: whether the folder is this run's own already.

    Raises:
      UserError: the folder cannot be created.
    """
    created: list[Path] = []
    folder = out
    try:
        try:
            if not claimed:
                folder = _claim(out, names, record, created)
            for name in names:
                _make(folder / name, created)
        except OSError as error:
            raise files.unwritten(out, error) from error
        if folder != out:
            note(f"{out} holds a run already, finished or not; this one is in {folder}")
        yield folder
    finally:
        if not claimed:
            _unclaim(folder / record)
        for path in reversed(created):
            with contextlib.suppress(OSError):  # something was written: the folder stays
                path.rmdir()


def write_new(path: Path, data: bytes) -> None:
    """Writes a new file atomically: a killed process leaves no part of it under its name.

    Raises:
      UserError: there is a file of this name already, or it cannot be written.
    """
    try:
        files.write_bytes(path, data, new=True)
    except FileExistsError as error:
        raise UserError(f"{path} exists already and is not overwritten; choose another --out") from error
    except OSError as error:
        raise files.unwritten(path, error) from error


def write_again(path: Path, data: bytes) -> None:
    """Writes a file of a run in place of the one before, if there is one.

    Raises:
      UserError: it cannot be written; the one before stays.
    """
    with files.writing(path):
        files.write_bytes(path, data)


def write_record(path: Path, value: Any) -> None:
    """Writes the record of a run in place of the one before.

    Raises:
      UserError: it cannot be written; the one before stays.
    """
    with files.writing(path):
        files.write_json(path, value)


def _claim(out: Path, names: Sequence[str], record: str, created: list[Path]) -> Path:
    """Returns the first folder that holds no run, with a record in it that claims it."""
    _make(out, created)
    folders = [out, *(out / name for name in names)]
    used = any((out / name).exists() for name in (RUN, RESULTS)) or any(any(one.glob("*.png")) for one in folders)
    if not used and _create(out / record):
        return out
    for number in itertools.count(2):
        folder = out / f"run-{number:03d}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            created.append(folder)
            if _create(folder / record):
                return folder
    raise AssertionError("there is always a next number")


def _create(record: Path) -> bool:
    """Creates the record of a run that has no images yet; returns whether this process was the first."""
    try:
        files.write_bytes(record, files.json_bytes(UNFINISHED), new=True)
    except FileExistsError:
        return False
    return True


def _unclaim(record: Path) -> None:
    """Removes the record of a run that wrote nothing else."""
    with contextlib.suppress(OSError):
        files_of_it = (path for path in record.parent.rglob("*") if path.is_file() and path != record)
        others = any(not path.relative_to(record.parent).parts[0].startswith("run-") for path in files_of_it)
        if not others and record.read_bytes() == files.json_bytes(UNFINISHED):
            record.unlink()


def _make(folder: Path, created: list[Path]) -> None:
    for path in reversed([folder, *folder.absolute().parents]):
        if not path.exists():
            path.mkdir()
            created.append(path)
