"""Reads PyTorch checkpoints without PyTorch, and without running what they hold.

A checkpoint is a zip archive: `<name>/data.pkl`, a pickle whose tensors name their storages, and `<name>/data/<key>`,
the bytes of each storage, uncompressed. A pickle can call any function it names; this reader lets it name only those
that rebuild tensors and plain containers, and refuses the file otherwise. Arrays are views of the memory-mapped file:
nothing is read before it is used.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from rdm_jax.core.errors import UserError

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# What Lightning's records beside the weights name. Nothing of it is imported or kept.
_INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)


class _Inert:
    """Stands for an object that is not wanted: takes any arguments and any state, and keeps none."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_state_dict(path: Path | str) -> dict[str, np.ndarray]:
    """Returns the tensors of a checkpoint by name: those of its "state_dict" entry or, without one, its own.

    Args:
      path: a file that `torch.save` wrote (since PyTorch 1.6): a dictionary of tensors, or a Lightning checkpoint.

    Returns:
      Read-only arrays over the memory-mapped file, in their stored types; values that are no tensors are left out.

    Raises:
      UserError: the file is missing, is no such archive, is damaged, or names something outside the allow-list.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Unpickler(archive, path).load()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of a PyTorch checkpoint") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no zip archive; save it again with torch.save of PyTorch 1.6 or later") from error
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or no PyTorch checkpoint ({error}); download it again") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors; give a checkpoint")
    return {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, np.ndarray)}


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: Any


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{path} has no data.pkl inside; give a checkpoint that torch.save wrote")
        self._path, self._archive = path, archive
        self._root = pickles[0].removesuffix("data.pkl")
        if f"{self._root}constants.pkl" in archive.namelist():
            raise UserError(
                f"{path} is a TorchScript program; save its state_dict() with torch.save, or take the Hugging Face copy"
            )
        if f"{self._root}byteorder" in archive.namelist() and archive.read(f"{self._root}byteorder") != b"little":
            raise UserError(f"{path} is big-endian; save it again on a little-endian machine")
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self._storages: dict[str, np.ndarray] = {}
        super().__init__(io.BytesIO(archive.read(pickles[0])))

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a pickle may name, and refuses the rest."""
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("torch", "Size"): tuple,
        }
        if f"{module}.{name}" in _INERT:
            return _Inert
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if (module, name) not in allowed:
            raise UserError(
                f"{self._path} names {module}.{name}, which is not on the list of what a checkpoint may hold; "
                "save its state_dict alone and give that"
            )
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Returns the storage a pickle refers to, a flat view of the file."""
        kind, storage, key, _, _ = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        if key not in self._storages:
            self._storages[key] = self._view(f"{self._root}data/{key}").view(storage.dtype)
        return self._storages[key]

    def _view(self, name: str) -> np.ndarray:
        info = self._archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            return np.frombuffer(self._archive.read(name), np.uint8)
        # The central directory gives the local header's place; its two lengths, after 26 bytes, give the data's.
        if info.header_offset + 30 > self._bytes.size:
            raise pickle.UnpicklingError(f"{name} is cut off")
        header = self._bytes[info.header_offset : info.header_offset + 30].tobytes()
        name_length, extra_length = struct.unpack_from("<HH", header, 26)
        start = info.header_offset + 30 + name_length + extra_length
        if start + info.file_size > self._bytes.size:
            raise pickle.UnpicklingError(f"{name} is cut off")
        return self._bytes[start : start + info.file_size]


def _rebuild_tensor(storage: np.ndarray, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride) or any(n < 0 for n in (offset, *size, *stride)):
        raise pickle.UnpicklingError(f"a tensor of size {size} and stride {stride} at {offset}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.size:
        raise pickle.UnpicklingError(f"a tensor of size {size} reaches past its {storage.size} numbers")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    strides = tuple(step * storage.dtype.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(np.asarray(storage)[offset:], size, strides, writeable=False)


def _rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data
