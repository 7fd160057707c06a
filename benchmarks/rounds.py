"""Programs timed in turn, so that a machine whose speed wanders slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def interleave(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Returns each program's seconds, one round of all programs after another, their order turned each time."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for round_ in range(rounds):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            time.sleep(0.02)
            begin = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - begin)
    return times


def paired(times: Sequence[float], others: Sequence[float]) -> float:
    """Returns the median over the rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(times, others, strict=True))
