"""Where the time of a process goes: spans of named parts, and the seconds that each part has for itself."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Span = tuple[str, float, float]
"""(part, begin, end) in seconds of the monotonic clock, which all processes of a machine share."""


@dataclasses.dataclass
class Recorder:
    """Records spans of the thread that made it.

    Attributes:
      spans: so far.
      thread: whose time is recorded.
    """

    spans: list[Span] = dataclasses.field(default_factory=list)
    thread: int = dataclasses.field(default_factory=threading.get_ident)

    def add(self, part: str, begin: float, end: float) -> None:
        """Records a span."""
        if threading.get_ident() == self.thread:
            self.spans.append((part, begin, end))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Records the time of the block."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.add(name, begin, time.monotonic())

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function whose calls are recorded."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            """Calls."""
            with self.part(name):
                return function(*arguments, **options)

        return call

    def patch(self, owner: Any, attribute: str, name: str) -> None:
        """Records the calls of a module's function, or of a class's method, from now on."""
        found = inspect.getattr_static(owner, attribute)
        if isinstance(found, staticmethod):
            setattr(owner, attribute, staticmethod(self.timed(name, found.__func__)))
        else:
            setattr(owner, attribute, self.timed(name, found))


def seconds_of(spans: Sequence[Span], begin: float, end: float) -> dict[str, float]:
    """Returns the seconds of each part between two times; a moment counts for the innermost span that it lies in.

    Args:
      spans: of one thread: two of them lie one within the other or apart.
      begin: of the whole.
      end: of the whole.

    Returns:
      by part; "" is what no span covers. The sum is `end - begin`.
    """
    seconds: dict[str, float] = defaultdict(float)
    around, at = [("", end)], begin  # the spans that are open, each with its end

    def advance(to: float) -> None:
        nonlocal at
        seconds[around[-1][0]] += max(to - at, 0.0)
        at = max(to, at)

    for part, start, stop in sorted(spans, key=lambda span: (span[1], -span[2])):
        while len(around) > 1 and around[-1][1] <= start:
            advance(around[-1][1])
            around.pop()
        advance(min(start, end))
        around.append((part, min(stop, around[-1][1])))
    while around:
        advance(around[-1][1])
        around.pop()
    return dict(seconds)
