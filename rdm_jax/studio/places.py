"""The folder of a studio: its runs, its databases and what was uploaded; nothing outside it is written."""

from __future__ import annotations

import dataclasses
import itertools
import re
import secrets
from pathlib import Path

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.manifest import MANIFEST

SHOWN = re.compile(r"[^\w-]+")
LONGEST = 60  # letters of a folder's name


@dataclasses.dataclass(frozen=True)
class Places:
    """The folders of a studio.

    Attributes:
      root: of all.
    """

    root: Path

    @property
    def runs(self) -> Path:
        """Generated images, a folder for each run, as `rdm sample` writes them."""
        return self.root / "runs"

    @property
    def databases(self) -> Path:
        """Databases that were built on the page."""
        return self.root / "databases"

    @property
    def uploads(self) -> Path:
        """Images that were given on the page, under names of ours."""
        return self.root / "uploads"

    def create(self) -> Places:
        """Makes the folders, and returns them; raises UserError where they cannot be written."""
        try:
            for folder in (self.runs, self.databases, self.uploads):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {self.root}: {error.strerror}; choose another --folder") from error
        return self

    def new_run(self) -> Path:
        """Returns the folder of the next run, which is not there yet."""
        numbers = [int(one.name) for one in self.runs.iterdir() if one.name.isdigit()]
        return self.runs / f"{max(numbers, default=0) + 1:06d}"

    def new_upload(self, suffix: str) -> Path:
        """Returns a new file or folder of uploads; its name tells nothing of the one that was given."""
        return self.uploads / f"{secrets.token_hex(8)}{suffix}"

    def known_databases(self) -> dict[str, str]:
        """Returns {name as the page shows it: name or folder} of all databases that may be opened."""
        built = sorted(one.name for one in self.databases.iterdir() if (one / MANIFEST).is_file())
        shipped = {name: name for name in Database.names()}
        return {**{name: str(self.databases / name) for name in built}, **shipped}

    def database(self, name: str) -> str:
        """Returns the name or folder of a database of the list; raises UserError for any other."""
        known = self.known_databases()
        if name not in known:
            raise unknown("database", name, known)
        return known[name]

    def placed(self, database: str) -> str:
        """Returns the place of a database by its name, or its place itself; raises UserError if it is not listed."""
        return database if database in self.known_databases().values() else self.database(database)

    def new_database(self, title: str) -> Path:
        """Returns the folder of a new database with a readable name; a used name gets a number."""
        readable = SHOWN.sub("-", title).strip("-_")[:LONGEST] or "images"
        used = {*self.known_databases(), *(one.name for one in self.databases.iterdir())}
        numbered = itertools.chain([readable], (f"{readable}-{number}" for number in itertools.count(2)))
        return self.databases / next(name for name in numbered if name not in used)
