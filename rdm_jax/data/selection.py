"""Which pictures are wanted: by what is told of them, with exclusions that always win."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.core.errors import UserError

# What every picture has beside its attributes.
COLUMNS = ("id", "path", "caption", "sha256")
# What is known of a picture only once it is decoded.
DECODED = ("id", "sha256")

Term = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Terms (key, value) on the attributes of pictures, or on their id, path, caption or sha256.

    A path that ends in "/" stands for all that lies below it.

    Attributes:
      where: all of these must hold.
      exclude: none of these may hold.
    """

    where: tuple[Term, ...] = ()
    exclude: tuple[Term, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.where or self.exclude)

    def admits(self, told: Mapping[str, str]) -> bool:
        """Says whether a picture is wanted; what is not told of it meets no term."""
        return all(holds(term, told) for term in self.where) and not any(holds(term, told) for term in self.exclude)

    def undecoded(self) -> Selection:
        """Returns what can be said before a picture is decoded: without the terms that must hold on its id and hash."""
        return Selection(tuple(term for term in self.where if term[0] not in DECODED), self.exclude)

    def record(self) -> dict[str, Any]:
        """Returns the terms as JSON."""
        return {"where": [list(term) for term in self.where], "exclude": [list(term) for term in self.exclude]}


EVERYTHING = Selection()


def holds(term: Term, told: Mapping[str, str]) -> bool:
    """Says whether a term is true of a picture."""
    key, value = term
    given = told.get(key)
    return given == value or (is_folder(term) and given is not None and given.startswith(value))


def is_folder(term: Term) -> bool:
    """Says whether a term stands for all paths below a folder."""
    return term[0] == "path" and term[1].endswith("/")


def parse_terms(texts: Sequence[str], option: str) -> tuple[Term, ...]:
    """Returns the terms of texts KEY=VALUE; raises UserError, which names the option, where one is none."""
    terms = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UserError(f"{option} {text!r} is not KEY=VALUE, as in {option} style=mosaic")
        terms.append((key, value))
    return tuple(terms)


def read_exclusions(path: Path) -> tuple[Term, ...]:
    """Returns the terms of a list: on each line KEY=VALUE (artist=Jane Doe), or a path; # starts a comment.

    Raises:
      UserError: the list cannot be read.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the exclusion list {path}: {error}; give a text file") from error
    told = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for line in told:
        if line.startswith("="):
            raise UserError(f"exclusion list {path}: {line!r} has no KEY before =, as in style=mosaic")
    return tuple(_term(line) for line in told)


def _term(line: str) -> Term:
    key, equals, value = line.partition("=")
    return (key.strip(), value.strip()) if equals else ("path", line)
