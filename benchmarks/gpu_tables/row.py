"""A row of the table of benchmarks/gpu.py."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Program = Callable[[], Any]  # waits for its result

HEADER = ("measured", "program", "ms", "quartiles", "images/s", "TFLOP/s", "of peak", "GiB", "ratio", "note")


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one program.

    Attributes:
      measured: what the program computes.
      program: its name.
      seconds: of one call, in each round; empty if it was not measured.
      images: that one call generates or trains on; 0 if that is no measure.
      flops: the floating-point operations of one call; 0 if they were not counted.
      peak: FLOP/s of the card in the program's type; None if unknown.
      mebibytes: the memory of the largest compiled program; None if unknown.
      ratio: the median over the rounds of its time over that of the first program that computes the same; None where
        there is none.
      note: a remark, or the reason why it was not measured.
      failed: whether it raised an error, which is the note.
    """

    measured: str
    program: str
    seconds: Sequence[float] = ()
    images: int = 0
    flops: float = 0.0
    peak: float | None = None
    mebibytes: float | None = None
    ratio: float | None = None
    note: str = ""
    failed: bool = False

    @property
    def median(self) -> float:
        """The median time of a call in seconds."""
        return statistics.median(self.seconds)

    @property
    def fraction_of_peak(self) -> float | None:
        """The fraction of the card's peak; None if one of them is unknown."""
        return self.flops / self.median / self.peak if self.seconds and self.flops and self.peak else None

    def cells(self) -> list[str]:
        """Returns the row's cells under `HEADER`; what is unknown is empty."""
        if not self.seconds:
            return [self.measured, self.program, *[""] * (len(HEADER) - 3), self.note]
        low, high = (1e3 * value for value in _quartiles(self.seconds))
        peak = self.fraction_of_peak
        return [
            self.measured,
            self.program,
            f"{1e3 * self.median:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{self.images / self.median:.1f}" if self.images else "",
            f"{self.flops / self.median / 1e12:.3g}" if self.flops else "",
            "" if peak is None else f"{peak:.1%}",
            "" if self.mebibytes is None else f"{self.mebibytes / 2**10:.2f}",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            self.note,
        ]


def warmed(makers: Mapping[str, Callable[[], Program]]) -> tuple[dict[str, Program], dict[str, Any], dict[str, str]]:
    """Makes programs and calls each once, which compiles it.

    Returns:
      programs: those that succeeded, by name.
      results: of their calls.
      reasons: why the others failed.
    """
    programs, results, reasons = {}, {}, {}
    for name, make in makers.items():
        try:
            program = make()
            results[name] = program()
            programs[name] = program
        except Exception as error:  # of any library; the other programs are still worth their time
            reasons[name] = reason_of(error)
    return programs, results, reasons


def reason_of(error: Exception) -> str:
    """Returns an error in one line that fits into a cell."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:120]}".replace("|", "/")


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Returns the first and the third quartile; those of a single value are itself."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
