"""The arrays of a network as its file holds them: in float32, in float16, or partly in int8 with scales."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rdm_jax.core import int8
from rdm_jax.core.errors import unknown

DTYPES = ("float16", "float32", "int8")
ALWAYS_INT8 = "word_table"  # the name of parameters that are in int8 unless all is in float32
SCALES = "_scales"  # after the name of a parameter in int8


def check_dtype(dtype: str) -> None:
    """Raises UserError unless a network can be stored in this type."""
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)


def to_stored(flat: Mapping[str, Any], dtype: str, kernels: bool) -> dict[str, np.ndarray]:
    """Returns the arrays of a network's file.

    Args:
      flat: the parameters by name.
      dtype: a name in `DTYPES`. In float16, word tables are in int8, with a scale for each row.
      kernels: whether int8 also applies to arrays of several axes, with a scale for each index of the last one, which
        is the output channel of a kernel; otherwise int8 is float16.
    """
    arrays = {}
    for name, leaf in flat.items():
        if dtype != "float32" and name.endswith(ALWAYS_INT8):
            arrays[name], arrays[name + SCALES] = int8.quantize(np.asarray(leaf, np.float32))
        elif dtype == "int8" and kernels and np.ndim(leaf) > 1:
            arrays[name], arrays[name + SCALES] = int8.quantize(np.asarray(leaf, np.float32), axis=-1)
        else:
            arrays[name] = np.array(leaf, "float32" if dtype == "float32" else "float16", order="C")
    return arrays


def from_stored(read: Callable[[str], np.ndarray], names: Collection[str], dtype: str) -> dict[str, np.ndarray]:
    """Returns the parameters of a network's file by name.

    Args:
      read: returns a tensor of the file by its name.
      names: of all of its tensors.
      dtype: of the parameters.
    """
    return {name: _parameter(read, name, names, dtype) for name in names if not name.endswith(SCALES)}


def in_int8(names: Collection[str]) -> bool:
    """Returns whether a file with tensors of these names holds some in int8."""
    return any(name.endswith(SCALES) for name in names)


def _parameter(read: Callable[[str], np.ndarray], name: str, names: Collection[str], dtype: str) -> np.ndarray:
    leaf = read(name)
    if name + SCALES in names:
        leaf = int8.dequantize(leaf, read(name + SCALES))
    return np.asarray(leaf, jnp.dtype(dtype))
