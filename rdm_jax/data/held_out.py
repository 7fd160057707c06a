"""Which images are held out, by what is known of them: the same ones wherever and in whatever order they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_RANGE = 2.0**64


def is_held_out(values: Sequence[str], share: float) -> bool:
    """Returns whether an image with these values is held out; images with equal values all are, or none is.

    Args:
      values: of some of its attributes, in a fixed order.
      share: of all combinations of values, that is held out, in [0, 1].
    """
    digest = hashlib.sha256("\n".join(values).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * _RANGE
