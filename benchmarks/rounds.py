"""Interleaved timing: where the speed of a machine drifts, all programs are slowed alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def interleave(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each program in each round; the order of the programs rotates from round to round."""
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
    """Returns the median over the rounds of the ratio of both times within a round."""
    return statistics.median(one / other for one, other in zip(times, others, strict=True))
