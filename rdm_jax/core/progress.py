"""The callbacks by which long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total)."""

StageProgressCallback = Callable[[str, int, int], None]
"""Called with (stage, done, total) by work that has several stages."""
