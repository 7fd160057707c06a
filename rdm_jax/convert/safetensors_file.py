"""Reads and writes safetensors files one tensor at a time: a file of any size takes little memory.

A file has eight bytes with the length of a JSON header, the header with each tensor's type, shape and offsets, and the
tensors' bytes in that order (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import ProgressCallback

_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _TYPES.items()}
_ALIGNMENT = 8


@runtime_checkable
class Tensor(Protocol):
    """A tensor whose numbers `read` reads."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def read(self) -> np.ndarray:
        """Returns the numbers."""
        ...


class SafetensorsFile(Mapping[str, np.ndarray]):
    """The tensors of a file by name, each mapped from it, read-only, on access.

    Raises:
      UserError: the file cannot be read, or its header does not fit its size.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as checked:  # the header against the file's size
                names = list(checked.keys())
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; give the path of a safetensors file") from error
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} is no complete safetensors file ({error}); download it again") from error
        self._path, self._start = path, 8 + length
        self._entries: dict[str, Any] = {name: header[name] for name in names}
        unknown = sorted({entry["dtype"] for entry in self._entries.values()} - set(_TYPES))
        if unknown:
            raise UserError(f"{path} holds tensors of type {', '.join(unknown)}; allowed are {', '.join(_TYPES)}")

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
        start, end = entry["data_offsets"]
        if start == end:
            return np.zeros(shape, dtype)
        return np.memmap(self._path, np.uint8, "r", self._start + start, (end - start,)).view(dtype).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], progress: ProgressCallback | None = None) -> None:
    """Writes a new file: the header, then one tensor after another, each read just before.

    Args:
      path: a file that does not exist yet.
      tensors: to write, in this order.
      progress: called with (bytes done, bytes in all).
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # required by other libraries
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[np.dtype(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            array = tensor.read()
            assert array.shape == tuple(tensor.shape) and array.dtype == tensor.dtype, name
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            if progress:
                progress(header[name]["data_offsets"][1], end)
        file.flush()
        os.fsync(file.fileno())
