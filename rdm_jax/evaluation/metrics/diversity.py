"""Diversity: the mean distance of two images of one group, such as the images of one prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int

from rdm_jax.core.errors import UserError

MOST_PAIRS = 10_000


def pairs_within(groups: Sequence[Hashable], most: int = MOST_PAIRS, seed: int = 0) -> Int[np.ndarray, "p 2"]:
    """Returns pairs of different images of the same group: all of them, or `most` at random.

    Args:
      groups: of each image, such as its prompt; LPIPS diversity is defined within one guidance signal
        (https://arxiv.org/abs/2112.05744, section 4).
      most: the largest number of pairs.
      seed: of the choice.

    Raises:
      UserError: no group has two images.
    """
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    kept = [rows for rows in members.values() if len(rows) > 1]
    if not kept:
        raise UserError(
            f"diversity needs 2 images of a group, and {len(groups)} images have {len(members)} groups; generate "
            "several images for each prompt"
        )
    counts = np.array([len(rows) * (len(rows) - 1) // 2 for rows in kept])
    total, ends = int(counts.sum()), np.cumsum(counts)
    if total > most:
        numbers = np.sort(np.random.default_rng(seed).choice(total, most, replace=False, shuffle=False))
    else:
        numbers = np.arange(total)
    group_of = np.searchsorted(ends, numbers, side="right")
    pairs = []
    for group in np.unique(group_of):
        own = numbers[group_of == group] - (ends[group] - counts[group])
        pairs.append(np.array(kept[group])[_pairs(own, len(kept[group]))])
    return np.concatenate(pairs)


def _pairs(numbers: Int[np.ndarray, " p"], size: int) -> Int[np.ndarray, "p 2"]:
    """Returns the pairs of these numbers among those of `size` things: (0, 1), (0, 2), ..., (1, 2), ..."""
    ends = np.cumsum(np.arange(size - 1, 0, -1))
    first = np.searchsorted(ends, numbers, side="right")
    second = numbers - (ends[first] - (size - 1 - first)) + first + 1
    return np.stack([first, second], axis=1)
