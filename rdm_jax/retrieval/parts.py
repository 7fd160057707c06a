"""Long work in parts: each is a function of its number alone, so that a stopped run goes on, and several share it.

Parts lie in `.NAME.partial` beside the target. A part counts once its notes are there, which are written last. Process
i of n does parts i, i + n, ...; none waits for the parts of another, and the first that finds all there finishes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rdm_jax.core import files
from rdm_jax.core.errors import UserError

PLAN = "plan.json"


@dataclasses.dataclass(frozen=True)
class Share:
    """Which of a number of processes this one is.

    Attributes:
      index: from 0.
      count: of processes.

    Raises:
      UserError: the index is not below the count.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UserError(f"process {self.index}/{self.count} is out of range; give 0/{self.count} and so on")

    @staticmethod
    def parse(text: str) -> Share:
        """Returns the share that "2/8" means, the third of eight."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdigit() and count.isdigit()):
            raise UserError(f"--process {text!r} is not I/N, as in 0/4 for the first of four")
        return Share(int(index), int(count))


ALONE = Share()


@dataclasses.dataclass(frozen=True)
class Workspace:
    """The folder of a run's parts.

    Attributes:
      folder: where they are.
      count: how many parts there are in all.
    """

    folder: Path
    count: int

    @staticmethod
    def open(out: Path, plan: Mapping[str, Any], count: int) -> Workspace:
        """Makes the working folder of `out`, or goes on in the one that is there.

        Args:
          out: what the run makes.
          plan: JSON that is different wherever the parts would be.
          count: how many parts there are.

        Raises:
          UserError: the folder cannot be written, or holds a run with another plan.
        """
        folder = working_folder(out)
        work = Workspace(folder, count)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with files.locked(folder / ".lock-plan", folder, wait=True):
                if not (folder / PLAN).exists() and not work.done():
                    files.write_json(folder / PLAN, plan)
        except OSError as error:
            raise UserError(
                f"cannot write to {out.parent}: {error.strerror}; choose a folder that can be written"
            ) from error
        try:
            begun = json.loads((folder / PLAN).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds a damaged run ({error}); remove it") from error
        if differing := difference(begun, plan):
            raise UserError(
                f"{folder} holds an unfinished run with another {differing}; remove it or choose another folder"
            )
        return work

    def done(self) -> list[int]:
        """Returns the numbers of the parts that are there."""
        return [number for number in range(self.count) if self._notes(number).is_file()]

    def pending(self, share: Share) -> list[int]:
        """Returns the numbers of the parts that a process has still to do."""
        done = set(self.done())
        return [number for number in range(share.index, self.count, share.count) if number not in done]

    def write(self, number: int, make: Callable[[Path], Any]) -> Any:
        """Makes a part by a function that writes into a folder and returns notes (JSON), which say that it is there."""
        with files.writing(self.folder):
            notes = make(self.folder)
            files.write_json(self._notes(number), notes)
        return notes

    def notes(self, number: int) -> Any:
        """Returns what is known of a part that is there."""
        return json.loads(self._notes(number).read_text())

    @contextlib.contextmanager
    def locked(self, share: Share) -> Iterator[None]:
        """Holds a process's share of the work; what fails before any part is done leaves no folder behind.

        Raises:
          UserError: another process has it.
        """
        own = self.folder / f".lock-{share.index}-of-{share.count}"
        with files.locked(own, self.folder):
            if not (self.folder / PLAN).is_file():
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
        """Lets one process at a time make of the parts what they are for; then no parts are left for the next one."""
        with files.locked(self.folder.with_suffix(".finishing"), self.folder, wait=True):
            yield

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Leaves the parts alone: removes plan, notes, locks and what killed processes have left half written."""
        for path in [self.folder / PLAN, *self.folder.glob("part-*.json"), *self.folder.glob(".*")]:
            path.unlink(missing_ok=True)

    def _notes(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.json"


def working_folder(out: Path) -> Path:
    """Returns the folder in which the parts of `out` are made."""
    return out.parent / f".{out.name}.partial"


def discard(out: Path, plan: Mapping[str, Any]) -> None:
    """Removes the parts of a run that is finished, which a process that was killed then has left behind."""
    folder = working_folder(out)
    try:
        begun = json.loads((folder / PLAN).read_text())
    except (OSError, ValueError):
        return
    if not difference(begun, plan):
        shutil.rmtree(folder, ignore_errors=True)


def difference(made: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Returns what two plans differ in, "" where they are the same."""
    return ", ".join(key.replace("_", " ") for key in plan if made.get(key) != plan[key])
