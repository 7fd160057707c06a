"""Who made the images that a run has used as neighbors, and under which licenses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rdm_jax.core.errors import some
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Neighbors

FILE = "ATTRIBUTION.md"
LICENSE_KEYS = ("license", "licence")
"""The attributes, of a row or of a whole database, that name a license."""
SET_KEYS = ("set", "style")
NAMED = 40  # of the images of one set
ROWS = 1000  # are read at once

_HEAD = """# Attribution

The images in this folder were generated from images of others, their neighbors. Those of each image are in run.json.
"""


@dataclasses.dataclass(frozen=True)
class Credit:
    """Images of one set, author and license.

    Attributes:
      source: the set's name, "" if none is recorded.
      author: "" if none is recorded.
      license: "" if none is recorded.
      images: the names of the images that were used.
    """

    source: str
    author: str
    license: str
    images: Sequence[str]


def attribution(used: Iterable[tuple[Sequence[Database], Neighbors | None]]) -> str:
    """Returns the text of ATTRIBUTION.md: of each database the sets, authors and licenses of the neighbors.

    Args:
      used: (databases, neighbors that are from them) of each role and run; None stands for no neighbors.

    Raises:
      UserError: a database is damaged.
    """
    rows: dict[str, tuple[Database, set[int]]] = {}
    for databases, neighbors in used:
        for database in databases if neighbors is not None else ():
            assert neighbors is not None
            ids = neighbors.ids[neighbors.databases == database.name]
            rows.setdefault(database.digest, (database, set()))[1].update(ids[ids >= 0].tolist())
    sections = [_section(database, credits_of(database, ids)) for database, ids in rows.values() if ids]
    return "\n".join([_HEAD, *(sections or ["No neighbors were used.\n"])])


def credits_of(database: Database, ids: Iterable[int]) -> list[Credit]:
    """Returns the credits for rows of a database, those with the most images first.

    Raises:
      UserError: the database is damaged.
    """
    names: dict[tuple[str, str, str], list[str]] = {}
    numbers = np.array(sorted(ids), np.int64)
    for first in range(0, len(numbers), ROWS):
        for item in database.items(numbers[first : first + ROWS]):
            labels = item["attributes"]
            license_ = _first(labels, LICENSE_KEYS) or _first(database.manifest, LICENSE_KEYS)
            key = (_first(labels, SET_KEYS), _first(labels, ("author",)), license_)
            names.setdefault(key, []).append(item["caption"] or item["path"])
    credits = [Credit(*key, sorted(set(images))) for key, images in names.items()]
    return sorted(credits, key=lambda one: (-len(one.images), one.source, one.author))


def _section(database: Database, credits: Sequence[Credit]) -> str:
    """Returns the part of the document about one database."""
    lines = [f"## {cell(database.name)}", ""]
    if not any(credit.license for credit in credits):
        lines += ["No license is recorded in this database; ask whoever made it before you publish the images.", ""]
    lines += ["| Set | Author | License | Images |", "| --- | --- | --- | --- |"]
    for credit in credits:
        texts = (credit.source or database.name, credit.author or "not recorded", credit.license or "not recorded")
        lines.append(f"| {' | '.join(map(cell, texts))} | {cell(some(credit.images, NAMED))} |")
    return "\n".join([*lines, ""])


def _first(labels: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((str(labels[key]) for key in keys if labels.get(key)), "")


def cell(text: str) -> str:
    """Returns a text as a cell of a Markdown table holds it: in one line, its marks without effect."""
    plain = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\|`*_[]<>#" else letter for letter in plain)
