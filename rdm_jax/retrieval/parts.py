"""Long work in parts: a stopped run resumes, and several processes can work on the same output.

The working folder `.NAME.partial` lies beside the output. A part is complete once its notes exist, which are written
last. Process i of n makes the parts i, i + n, ...; no process waits for the parts of another, and the first process
that finds all parts complete finishes the output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rdm_jax.core import files, text
from rdm_jax.core.errors import UserError

RECORD = "plan.json"


@dataclasses.dataclass(frozen=True)
class ProcessIndex:
    """The position of this process among the processes that work on the same output.

    Attributes:
      index: from 0.
      count: the number of processes.

    Raises:
      UserError: the index is not below the count.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"process {self.index}/{self.count} is out of range; give 0/{self.count} and so on")

    @staticmethod
    def parse(given: str) -> ProcessIndex:
        """Returns the position that "2/8" stands for, the third of eight processes."""
        index, slash, count = given.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise UserError(f"--process {given!r} is not I/N, as in 0/4 for the first of four")
        return ProcessIndex(int(index), int(count))


@dataclasses.dataclass(frozen=True)
class Workspace:
    """The working folder of a run in parts.

    Attributes:
      folder: the folder.
      count: the number of parts.
    """

    folder: Path
    count: int

    @staticmethod
    def open(out: Path, record: Mapping[str, Any], count: int) -> Workspace:
        """Creates the working folder of `out`, or resumes the run in it.

        Args:
          out: the output of the run.
          record: JSON that differs if any part would differ.
          count: the number of parts.

        Raises:
          UserError: the folder cannot be written, or it holds a run with another record.
        """
        folder = working_folder(out)
        work = Workspace(folder, count)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with files.locked(folder / ".lock-plan", folder, wait=True):
                if not (folder / RECORD).exists() and not work.done():
                    files.write_json(folder / RECORD, record)
        except OSError as error:
            raise files.unwritten(out.parent, error) from error
        if differing := difference(work.record(), record):
            raise UserError(
                f"{folder} holds an unfinished run with another {differing}; remove it or choose another folder"
            )
        return work

    @property
    def place(self) -> str:
        """The folder or the address of the parts, for messages."""
        return str(self.folder)

    def record(self) -> Mapping[str, Any]:
        """Returns the record of the run; raises UserError if it is missing or damaged."""
        try:
            return text.read_json(self.folder / RECORD)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder} holds a damaged run ({error}); remove it") from error

    def done(self) -> list[int]:
        """Returns the numbers of the complete parts."""
        names = set(self._names())
        return [number for number in range(self.count) if notes_name(number) in names]

    def pending(self, process: ProcessIndex) -> list[int]:
        """Returns the numbers of the parts that a process still has to make."""
        done = set(self.done())
        return [number for number in range(process.index, self.count, process.count) if number not in done]

    def write(self, number: int, make: Callable[[Path], Any]) -> Any:
        """Makes a part by a function that writes into a folder and returns its notes as JSON; returns the notes."""
        with files.writing(self.folder):
            notes = make(self.folder)
            files.write_json(self._notes(number), notes)
        return notes

    def notes(self, number: int) -> Any:
        """Returns the notes of a complete part."""
        return text.read_json(self._notes(number))

    @contextlib.contextmanager
    def locked(self, process: ProcessIndex) -> Iterator[None]:
        """Locks the parts of a process; a run that fails before any part is complete leaves no folder behind.

        Raises:
          UserError: another process works on the same parts.
        """
        own = self.folder / f".lock-{process.index}-of-{process.count}"
        with files.locked(own, self.folder):
            if not (self.folder / RECORD).is_file():
                raise UserError(f"{self.folder} was removed by another process meanwhile; run the same command again")
            try:
                yield
            except BaseException:
                others = [lock for lock in self.folder.glob(".lock-*-of-*") if lock != own]
                if not self.done() and not any(map(files.is_locked, others)):
                    self.remove()
                raise

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """Lets one process at a time turn the parts into the output."""
        with files.locked(self.folder.with_suffix(".finishing"), self.folder, wait=True):
            yield

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Removes the record, the notes, the locks and the temporary files of killed processes; keeps the parts."""
        # The record is last: a run that is killed before resumes, and notes without a record would be a damaged run.
        for path in [*self.folder.glob("part-*.json"), *self.folder.glob(".*"), self.folder / RECORD]:
            path.unlink(missing_ok=True)

    def _notes(self, number: int) -> Path:
        return self.folder / notes_name(number)

    def _names(self) -> list[str]:
        # One listing, not a look at each file: a shared folder remembers for a minute that a file was missing.
        return os.listdir(self.folder) if self.folder.is_dir() else []


def notes_name(number: int) -> str:
    """Returns the name of the file with the notes of a part."""
    return f"part-{number:05d}.json"


def working_folder(out: Path) -> Path:
    """Returns the folder in which the parts of `out` are made."""
    return out.parent / f".{out.name}.partial"


def discard(out: Path, record: Mapping[str, Any]) -> None:
    """Removes the working folder of a finished run, which a process that was killed at its end leaves behind."""
    folder = working_folder(out)
    try:
        begun = text.read_json(folder / RECORD)
    except (OSError, ValueError):
        return
    if not difference(begun, record):
        shutil.rmtree(folder, ignore_errors=True)


def difference(before: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Returns the names of the entries in which two records differ, "" if they are equal."""
    return ", ".join(key.replace("_", " ") for key in record if before.get(key) != record[key])
