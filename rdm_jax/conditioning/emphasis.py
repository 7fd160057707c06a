"""Weights of words in a prompt, in the notation that users of Stable Diffusion share.

`(word:1.2)` has the weight 1.2, `(word)` 1.1, and `[word]` 1 / 1.1; weights of nested brackets multiply. `\\(` is a
bracket itself. Brackets without their partner act to the end of the prompt.
"""

from __future__ import annotations

import re

STRONGER = 1.1
_PART = re.compile(r"\\[\\()\[\]]|[()\[\]]|:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\)|[^\\()\[\]:]+|[\\:]")


def weighted_parts(prompt: str) -> list[tuple[str, float]]:
    """Returns the texts of a prompt with their weights, in order; neighboring texts have different weights."""
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(factor: float, start: int) -> None:
        """Multiplies the weights of all texts since a bracket was opened."""
        weights[start:] = [weight * factor for weight in weights[start:]]

    for part in _PART.findall(prompt):
        if part in opened:
            opened[part].append(len(texts))
        elif part[0] in ":)" and part[-1] == ")" and opened["("]:
            close(float(part[1:-1]) if part != ")" else STRONGER, opened["("].pop())
        elif part == "]" and opened["["]:
            close(1.0 / STRONGER, opened["["].pop())
        else:
            texts.append(part[1:] if len(part) == 2 and part[0] == "\\" else part)
            weights.append(1.0)
    for bracket, factor in (("(", STRONGER), ("[", 1.0 / STRONGER)):
        for start in opened[bracket]:
            close(factor, start)
    return _merged(texts, weights)


def _merged(texts: list[str], weights: list[float]) -> list[tuple[str, float]]:
    """Returns texts and weights, those of equal weights joined: words are split as in one text."""
    merged: list[tuple[str, float]] = []
    for text, weight in zip(texts, weights, strict=True):
        if merged and merged[-1][1] == weight:
            merged[-1] = merged[-1][0] + text, weight
        else:
            merged.append((text, weight))
    return merged or [("", 1.0)]
