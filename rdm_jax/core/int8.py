"""Rows of numbers in one byte each, with a scale for each row."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float16, Float32, Int8

LARGEST = 127


def quantize(rows: Float[np.ndarray, "n d"]) -> tuple[Int8[np.ndarray, "n d"], Float16[np.ndarray, "n 1"]]:
    """Returns integers in [-127, 127] and scales, so that integers times scales are the rows, rounded.

    Rows that are such products already are returned exactly: reading and writing again changes nothing.

    Args:
      rows: finite, in the range of float16.
    """
    scales = (np.abs(rows).max(axis=1, keepdims=True, initial=0.0) / LARGEST).astype(np.float16)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.rint(rows / divisors).clip(-LARGEST, LARGEST).astype(np.int8), scales


def dequantize(integers: Int8[np.ndarray, "n d"], scales: Float16[np.ndarray, "n 1"]) -> Float32[np.ndarray, "n d"]:
    """Returns the rows that `quantize` rounded."""
    return integers.astype(np.float32) * scales.astype(np.float32)
