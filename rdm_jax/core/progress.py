"""What is called while something long is under way."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total)."""

StageProgressCallback = Callable[[str, int, int], None]
"""Called with (stage, done, total) by what has several stages."""
