"""The one report of what is left out: how many files, images or rows, why, and the first names of each reason.

A line stays short whatever the number, the length of the names and the reasons: "12 files are left out: 7 .heic
(a.heic, b.heic, c.heic, ...), 5 without a suffix (x, y, z, ...)".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

NAMES = 3  # of each reason
REASONS = 6
LETTERS = 80  # of a name, and of a reason
OTHER = "for other reasons"


@dataclasses.dataclass
class LeftOut:
    """Counts what is left out, by its reason; the text of this object is the report, "" where nothing is left out.

    Attributes:
      what: the noun of one of them.
      counts: the number of each reason.
      names: the first names of each reason.
    """

    what: str = "file"
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, reason: str) -> bool:
        """Counts one more.

        Args:
          name: the path of a file, or what else identifies it.
          reason: why it is left out, as it is read after a number: ".heic", "without a suffix".

        Returns:
          Whether a report is due that shows them as they come: at the first, the second, the fourth and so on.
        """
        reason = _short(reason)
        if reason not in self.counts and len(self.counts) >= REASONS:
            reason = OTHER
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.names.setdefault(reason, [])
        if len(names) < NAMES:
            names.append(_short(name))
        return len(self) & (len(self) - 1) == 0

    def add_line(self, line: str) -> bool:
        """Counts one more by its line "name: reason", and returns what `add` does."""
        name, colon, reason = line.partition(": ")
        return self.add(name, reason) if colon else self.add("unnamed", line)

    def merge(self, other: LeftOut) -> None:
        """Counts what another process has left out as well; names of it are the first ones of both."""
        for reason, count in other.counts.items():
            for name in other.names[reason]:
                self.add(name, reason)
            kept = reason if reason in self.counts else OTHER
            self.counts[kept] += count - len(other.names[reason])

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        if not self.counts:
            return ""
        verb = "is" if len(self) == 1 else "s are"
        ordered = sorted(self.counts, key=lambda reason: (reason == OTHER, -self.counts[reason]))
        return f"{len(self)} {self.what}{' ' * (len(self) == 1)}{verb} left out: {', '.join(map(self._part, ordered))}"

    def _part(self, reason: str) -> str:
        more = ["..."] if self.counts[reason] > len(self.names[reason]) else []
        return f"{self.counts[reason]} {reason} ({', '.join([*self.names[reason], *more])})"


def of_lines(lines: Iterable[str], what: str = "image") -> LeftOut:
    """Returns the report of lines "name: reason"."""
    left_out = LeftOut(what)
    for line in lines:
        left_out.add_line(line)
    return left_out


def _short(text: str) -> str:
    """Returns a text in one line of bounded length: its start and its end."""
    plain = text if text.isprintable() else ascii(text)[1:-1]
    half = LETTERS // 2 - 2
    return plain if len(plain) <= LETTERS else f"{plain[:half]}...{plain[-half:]}"
