"""Arrays of numbers in one byte each, with a scale for each index of one axis."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float16, Float32, Int8

LARGEST = 127


def quantize(
    array: Float[np.ndarray, "*shape"], axis: int = 0
) -> tuple[Int8[np.ndarray, "*shape"], Float16[np.ndarray, "*scales"]]:
    """Returns integers in [-127, 127] and scales, so that integers times scales are the array, rounded.

    An array that is such a product already is returned exactly: reading and writing again changes nothing.

    Args:
      array: finite, in the range of float16.
      axis: that has a scale for each index; the scales have one number along the others.
    """
    others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
    scales = (np.abs(array).max(axis=others, keepdims=True, initial=0.0) / LARGEST).astype(np.float16)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.rint(array / divisors).clip(-LARGEST, LARGEST).astype(np.int8), scales


def dequantize(
    integers: Int8[np.ndarray, "*shape"], scales: Float16[np.ndarray, "*scales"]
) -> Float32[np.ndarray, "*shape"]:
    """Returns the array that `quantize` rounded."""
    return integers.astype(np.float32) * scales.astype(np.float32)
