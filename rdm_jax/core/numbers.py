"""Numbers as text, in plain digits: 12345 and 0.00002, not 1.234e+04 and 2e-05."""

from __future__ import annotations

import math

import numpy as np

LEAST, MOST = 1e-9, 1e12  # beyond these, digits alone are hard to read


def plain(value: float | int, digits: int = 4) -> str:
    """Returns a number in so many significant digits; digits before the point are all written."""
    if not math.isfinite(value) or (value and not LEAST <= abs(value) < MOST):
        return f"{value:.{digits}g}"
    if abs(value) >= 10**digits:
        return f"{value:.0f}"
    rounded = float(f"{value:.{digits}g}")
    return np.format_float_positional(rounded, trim="-")
