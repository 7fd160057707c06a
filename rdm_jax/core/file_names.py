"""File names made of words: valid on every system, and different even where upper and lower case are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

UNNAMED = "icon"
# Of UTF-8; file systems take 255, and the name gets a number, a suffix, and the random part of a temporary name.
MOST_BYTES = 120
# Names of devices on Windows, with any suffix.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)")


def file_names(words: Iterable[str]) -> Iterator[str]:
    """Yields a file name without a suffix for each of some words or texts, in order: "Paper plane" is "paper-plane".

    A name that is taken gets the next number, "rocket-2"; letters of every script stay.
    """
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for word in words:
        stem = file_name(word)
        name = stem
        while name in taken:
            counts[stem] = counts.get(stem, 1) + 1
            name = f"{stem}-{counts[stem]}"
        taken.add(name)
        yield name


def file_name(word: str) -> str:
    """Returns the file name of one word: its letters and digits in lower case, with hyphens between them."""
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", word).lower())
    name = re.sub(r"[\W_]+", "-", plain).strip("-")
    name = name.encode()[:MOST_BYTES].decode(errors="ignore").rstrip("-") or UNNAMED
    return f"{name}-{UNNAMED}" if _DEVICE.fullmatch(name) else name
