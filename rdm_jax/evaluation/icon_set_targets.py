"""What the first arm of icon set expansion should reach, and whether it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

STYLE, TOP5 = 0.50, 0.75  # worth shipping from
STYLE_BEHIND, TOP1_BEHIND, TOP5_BEHIND = 0.12, 0.15, 0.10  # the designers' own icons, at most
AHEAD = 0.40  # of the baseline that has the other half, at least
SLACK = 1e-9  # of rates that differ by rounding alone
NAMES = {"style": "style accuracy", "top1": "concept top-1", "top5": "concept top-5"}
DATABASES = {"content": "the content database", "style": "the style database"}


@dataclasses.dataclass(frozen=True)
class Target:
    """A rate and its limit.

    Attributes:
      words: the group of words that it is measured on.
      text: what is limited.
      value: of the first arm.
      limit: that it should reach.
      most: whether the limit is the most that the value may be, otherwise the least.
    """

    words: str
    text: str
    value: float
    limit: float
    most: bool = False

    @property
    def kept(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit + SLACK if self.most else self.value >= self.limit - SLACK

    def to_json(self) -> dict[str, Any]:
        """Returns the fields and whether the target is kept."""
        return {**dataclasses.asdict(self), "kept": self.kept}


def targets(results: Mapping[str, Any]) -> list[Target]:
    """Returns the targets of the first arm, those that are measured, over all words and over each group of them.

    Args:
      results: of `icon_set.measure`.
    """
    arms = results["arms"]
    first = next(iter(arms.values()))
    parts = [("all words", ("overall",)), *((group, ("by_group", group)) for group in results["words"])]
    found = [target for words, path in parts for target in _of_words(words, path, results)]
    for name, title in DATABASES.items():
        if name in first["copies"]:
            real = results["copies"]["real"][name]["rate"]
            text = f"copies of {title}, as among real icons of different sets"
            found.append(Target("all words", text, first["copies"][name]["rate"], real, most=True))
    return found


def _of_words(words: str, path: tuple[str, ...], results: Mapping[str, Any]) -> Iterator[Target]:
    arms = results["arms"]
    first, real = (part(one, path) for one in (next(iter(arms.values())), results["real"]))
    rates = {name: first[name]["rate"] for name in NAMES}
    if rates["style"] is None or rates["top1"] is None:
        return
    yield Target(words, "style accuracy, worth shipping from", rates["style"], STYLE)
    yield Target(words, "concept top-5, worth shipping from", rates["top5"], TOP5)
    for name, behind in (("style", STYLE_BEHIND), ("top1", TOP1_BEHIND), ("top5", TOP5_BEHIND)):
        if real[name]["rate"] is not None:
            text = f"{NAMES[name]}, within {100 * behind:.0f} points of the designers' own icons"
            yield Target(words, text, rates[name], real[name]["rate"] - behind)
    for arm, name in (("content", "style"), ("retrieval", "top1")):
        if arm in arms:
            text = f"{NAMES[name]}, {100 * AHEAD:.0f} points above {arm} alone"
            yield Target(words, text, rates[name], part(arms[arm], path)[name]["rate"] + AHEAD)


def part(results: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """Returns a part of results, ("by_group", "concepts") for instance."""
    for key in path:
        results = results[key]
    return results
