"""Selection of images by their attributes, where exclusions take precedence."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.core import text
from rdm_jax.core.errors import UserError

# Keys of every image besides its attributes.
COLUMNS = ("id", "path", "caption", "sha256")
# Keys that are known only after decoding.
DECODED = ("id", "sha256")

Term = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Terms (key, value) on the attributes of images, or on their id, path, caption or sha256.

    A path that ends in "/" matches all paths below it. Two texts are equal if they differ in their Unicode form alone
    ("é" as one character or two); in paths a backslash is a slash.

    Attributes:
      where: all of these must be true.
      exclude: none of these may be true.
    """

    where: tuple[Term, ...] = ()
    exclude: tuple[Term, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.where or self.exclude)

    def admits(self, labels: Mapping[str, str]) -> bool:
        """Returns whether an image is selected; a term on a missing label is false."""
        return all(holds(term, labels) for term in self.where) and not any(holds(term, labels) for term in self.exclude)

    def undecoded(self) -> Selection:
        """Returns the selection to apply before decoding: without the `where` terms on the id and the hash."""
        return Selection(tuple(term for term in self.where if term[0] not in DECODED), self.exclude)

    def record(self) -> dict[str, Any]:
        """Returns the terms as JSON."""
        return {"where": [list(term) for term in self.where], "exclude": [list(term) for term in self.exclude]}


EVERYTHING = Selection()


def holds(term: Term, labels: Mapping[str, str]) -> bool:
    """Returns whether a term is true of an image."""
    key, value = term[0], comparable(*term)
    if key not in labels:
        return False
    given = comparable(key, labels[key])
    return given == value or (is_folder(term) and given.startswith(value))


def comparable(key: str, value: str) -> str:
    """Returns the value of a key in the form in which values are compared."""
    return text.same_name(value) if key == "path" else unicodedata.normalize("NFC", value)


def is_folder(term: Term) -> bool:
    """Returns whether a term matches all paths below a folder."""
    return term[0] == "path" and comparable(*term).endswith("/")


def parse_terms(texts: Sequence[str], option: str) -> tuple[Term, ...]:
    """Returns the terms of texts KEY=VALUE; raises UserError, which names the option, for an invalid text."""
    terms = []
    for given in texts:
        key, equals, value = given.partition("=")
        if not key or not equals:
            raise UserError(f"{option} {given!r} is not KEY=VALUE, as in {option} style=mosaic")
        terms.append((key, value))
    return tuple(terms)


def read_exclusions(path: Path) -> tuple[Term, ...]:
    """Returns the terms of a list: on each line KEY=VALUE (artist=Jane Doe), or a path; # starts a comment.

    Raises:
      UserError: the list cannot be read.
    """
    lines = text.lines(text.read_given(path, "the exclusion list"))
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for line in entries:
        if line.startswith("="):
            raise UserError(f"exclusion list {path}: {line!r} has no KEY before =, as in style=mosaic")
    return tuple(_term(line) for line in entries)


def _term(line: str) -> Term:
    key, equals, value = line.partition("=")
    return (key.strip(), value.strip()) if equals else ("path", line)
