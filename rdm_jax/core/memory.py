"""Memory that was freed, and that the C library keeps for later."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def release() -> None:
    """Gives memory that was freed back to the system; does nothing where the C library has no `malloc_trim` (glibc).

    A compilation frees up to a gigabyte in small pieces, which glibc keeps: with a large model, it is missing later.
    """
    trim = _trim()
    if trim:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or a system without one to open
        return None
