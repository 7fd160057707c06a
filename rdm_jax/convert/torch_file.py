"""Reads PyTorch checkpoints without PyTorch and without running code from them, and writes them.

A checkpoint is a zip archive: `<name>/data.pkl`, a pickle whose tensors name their storages, and `<name>/data/<key>`,
the bytes of each storage, uncompressed. TorchScript archives hold their modules in the same way. Before version 1.6 a
checkpoint was a sequence of pickles, then the storages. A pickle can call any function by its name; this reader allows
only those that rebuild tensors and plain containers, and rejects other files. Each tensor is mapped into memory on
access and released with its array: a file of any size takes little memory.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from rdm_jax.convert.safetensors_file import Tensor
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import ProgressCallback

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

# The first pickle of a file of PyTorch before 1.6, and the content of the second one.
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_VERSION = 1001

# What a damaged pickle or archive raises; RuntimeError is that of an encrypted archive, or of too deep a nesting.
_DAMAGE = (
    pickle.UnpicklingError,
    struct.error,
    zlib.error,
    EOFError,
    KeyError,
    ValueError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RuntimeError,
)

# Names in Lightning's other records. None of them is imported or kept.
_INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)


# TorchScript's typed lists: the first argument is the list.
_TYPED = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")


class StateDict(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name, each mapped from the file, read-only, on access."""

    def __init__(self, tensors: Mapping[str, _Tensor]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name].array()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read_state_dict(path: Path | str) -> StateDict:
    """Returns the tensors of a checkpoint by name: those of its "state_dict" entry or, without one, its own.

    Where it has none itself, they are those of the dictionaries in it, "a.b" for b in a.

    Args:
      path: a file of `torch.save` with a dictionary of tensors, a Lightning checkpoint, or a TorchScript program, of
        which the modules' parameters and buffers are read.

    Returns:
      Read-only arrays in their stored types; other values are ignored.

    Raises:
      UserError: the file is missing, is no such archive, is damaged, or names something outside the allow-list.
    """
    path = Path(path)
    try:
        content = _read_pickles(path) if is_legacy(path) else _read_archive(path)
        if isinstance(content, _Module):
            return StateDict(content.tensors())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; give the path of a PyTorch checkpoint") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{path} is no zip archive, or is truncated; download it again, or save it with torch.save"
        ) from error
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged or no PyTorch checkpoint ({error}); download it again") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors; give a checkpoint")
    return StateDict(_tensors(state) or _nested_tensors(state))


def _tensors(state: Mapping[Any, Any], prefix: str = "") -> dict[str, _Tensor]:
    """Returns the tensors of a dictionary by their names, with a prefix; other values are ignored."""
    named = {name: value for name, value in state.items() if isinstance(name, str)}
    return {prefix + name: value for name, value in named.items() if isinstance(value, _Tensor)}


def _nested_tensors(state: Mapping[Any, Any]) -> dict[str, _Tensor]:
    """Returns the tensors of the dictionaries in a dictionary, their names joined by dots."""
    within = [(name, value) for name, value in state.items() if isinstance(value, Mapping)]
    return {key: value for name, inner in within for key, value in _tensors(inner, f"{name}.").items()}


def is_legacy(path: Path) -> bool:
    """Returns whether a file is in the format of PyTorch before 1.6; raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return file.read(len(_LEGACY_START)) == _LEGACY_START


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return _ArchiveUnpickler(archive, path).load()


def _read_pickles(path: Path) -> Any:
    """Returns the content of an older file: a magic number, a version, the system, the content, then the storages."""
    with open(path, "rb") as file:
        _, version, system = (_Unpickler(file, path).load() for _ in range(3))
        if version != _LEGACY_VERSION or not system.get("little_endian", True):
            raise UserError(f"{path} is of an unknown version or big-endian; save it again with torch.save")
        unpickler = _LegacyUnpickler(file, path)
        content = unpickler.load()
        for key in _Unpickler(file, path).load():
            storage = unpickler.storages[key]
            (count,) = struct.unpack("<q", file.read(8))
            if count != storage.count:
                raise pickle.UnpicklingError(f"storage {key} has {count} numbers for {storage.count}")
            storage.start = file.tell()
            file.seek(count * np.dtype(storage.dtype).itemsize, io.SEEK_CUR)
            if file.tell() > path.stat().st_size:
                raise pickle.UnpicklingError(f"storage {key} is truncated")
        if any(storage.start is None for storage in unpickler.storages.values()):
            raise pickle.UnpicklingError("a storage is missing")
    return content


class _Inert:
    """Stands for an object that is ignored: accepts any arguments and any state, and keeps none."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _Module:
    """Stands for a module of a TorchScript program: its state, without its code."""

    state: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, Mapping) else {}

    def tensors(self, prefix: str = "") -> dict[str, _Tensor]:
        """Returns the tensors of this module and of those in it, names joined by dots."""
        tensors: dict[str, _Tensor] = {}
        for name, value in self.state.items():
            if isinstance(value, _Tensor):
                tensors[prefix + name] = value
            elif isinstance(value, _Module):
                tensors |= value.tensors(f"{prefix}{name}.")
        return tensors


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: Any


@dataclasses.dataclass
class _Storage:
    """A flat array: `count` numbers at offset `start` of a file, or in `data` if they were compressed.

    In an older file `start` is known only after the pickle was read.
    """

    path: Path
    start: int | None
    count: int
    dtype: Any
    data: bytes | None = None

    def array(self) -> np.ndarray:
        """Returns the numbers, flat."""
        if self.data is not None or not self.count:
            return np.frombuffer(self.data or b"", self.dtype)
        size = self.count * np.dtype(self.dtype).itemsize
        return np.memmap(self.path, np.uint8, "r", self.start or 0, (size,)).view(self.dtype)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A tensor over a storage: `offset` and `stride` in numbers."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Returns the tensor, a view of its storage."""
        flat = self.storage.array()
        if 0 in self.size:
            return np.zeros(self.size, flat.dtype)
        strides = tuple(step * flat.dtype.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(np.asarray(flat)[self.offset :], self.size, strides, writeable=False)


class _Unpickler(pickle.Unpickler):
    """Allows the content of checkpoints, and rejects anything else."""

    def __init__(self, file: BinaryIO | io.BytesIO, path: Path) -> None:
        self._path = path
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a pickle may name, and rejects the rest."""
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _first,
            ("torch", "Size"): tuple,
            **{("torch.jit._pickle", typed): _first for typed in _TYPED},
        }
        if f"{module}.{name}" in _INERT:
            return _Inert
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if (module, name) not in allowed:
            raise UserError(
                f"{self._path} names {module}.{name}, which is not allowed in a checkpoint; "
                "save its state_dict alone and give that"
            )
        return allowed[module, name]


class _LegacyUnpickler(_Unpickler):
    """Keeps the storages by their keys, without their offsets."""

    def __init__(self, file: BinaryIO | io.BytesIO, path: Path) -> None:
        super().__init__(file, path)
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage a pickle refers to."""
        kind, storage, key, _, count, view = pid
        if kind != "storage" or not isinstance(storage, _StorageType) or view is not None:
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        return self.storages.setdefault(key, _Storage(self._path, None, count, storage.dtype))


class _ArchiveUnpickler(_Unpickler):
    """Finds the storages in the archive."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{path} has no data.pkl inside; give a checkpoint that torch.save wrote")
        self._archive = archive
        self._root = pickles[0].removesuffix("data.pkl")
        if f"{self._root}byteorder" in archive.namelist() and archive.read(f"{self._root}byteorder") != b"little":
            raise UserError(f"{path} is big-endian; save it again on a little-endian machine")
        self._storages: dict[str, _Storage] = {}
        super().__init__(io.BytesIO(archive.read(pickles[0])), path)

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage a pickle refers to."""
        kind, storage, key, _, _ = pid
        if kind != "storage" or not isinstance(storage, _StorageType):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        if key not in self._storages:
            self._storages[key] = self._locate(f"{self._root}data/{key}", storage.dtype)
        return self._storages[key]

    def _locate(self, name: str, dtype: Any) -> _Storage:
        info = self._archive.getinfo(name)
        count = info.file_size // np.dtype(dtype).itemsize
        if info.compress_type != zipfile.ZIP_STORED:
            return _Storage(self._path, 0, count, dtype, self._archive.read(name))
        # The central directory has the offset of the local header; its two lengths, at byte 26, give that of the data.
        if info.header_offset + 30 > self._file_size:
            raise pickle.UnpicklingError(f"{name} is truncated")
        with open(self._path, "rb") as file:
            file.seek(info.header_offset)
            name_length, extra_length = struct.unpack_from("<HH", file.read(30), 26)
        start = info.header_offset + 30 + name_length + extra_length
        if start + info.file_size > self._file_size:
            raise pickle.UnpicklingError(f"{name} is truncated")
        return _Storage(self._path, start, count, dtype)

    @functools.cached_property
    def _file_size(self) -> int:
        return self._path.stat().st_size


def _rebuild_tensor(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> _Tensor:
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride) or any(n < 0 for n in (offset, *size, *stride)):
        raise pickle.UnpicklingError(f"a tensor of size {size} and stride {stride} at {offset}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.count:
        raise pickle.UnpicklingError(f"a tensor of size {size} exceeds its {storage.count} numbers")
    return _Tensor(storage, offset, size, stride)


def _first(value: Any, *_: Any) -> Any:
    return value


def write_state_dict(path: Path, tensors: Mapping[str, Tensor], progress: ProgressCallback | None = None) -> None:
    """Writes a checkpoint that `torch.load(path, weights_only=True)["state_dict"]` reads, one tensor after another.

    Args:
      path: a file that does not exist yet.
      tensors: to write, in this order, of types that PyTorch has.
      progress: called with (bytes done, bytes in all).
    """
    total = sum(_size(tensor) for tensor in tensors.values())
    done = 0
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        texts = {"data.pkl": _pickled(tensors), "byteorder": b"little", "version": b"3\n"}
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), text)  # without a date: the same bytes every time
        for key, tensor in enumerate(tensors.values()):
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as file:
                file.write(np.ascontiguousarray(tensor.read()).reshape(-1).view(np.uint8).data)
            done += _size(tensor)
            if progress:
                progress(done, total)


def _size(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _pickled(tensors: Mapping[str, Tensor]) -> bytes:
    """Returns the pickle of {"state_dict": OrderedDict of tensors}, by opcodes, because it names PyTorch's classes."""
    names = {np.dtype(dtype): name for name, dtype in _STORAGES.items()}
    entries = [
        _plain(name)
        + _global("torch._utils", "_rebuild_tensor_v2")
        + pickle.MARK
        + (pickle.MARK + _plain("storage") + _global("torch", names[np.dtype(tensor.dtype)]))
        + (_plain(str(key)) + _plain("cpu") + _plain(math.prod(tensor.shape)) + pickle.TUPLE + pickle.BINPERSID)
        + (_plain(0) + _plain(tuple(tensor.shape)) + _plain(_strides(tensor.shape)) + _plain(False) + _EMPTY)
        + (pickle.TUPLE + pickle.REDUCE)
        for key, (name, tensor) in enumerate(tensors.items())
    ]
    state = _EMPTY + pickle.MARK + b"".join(entries) + pickle.SETITEMS
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + _plain("state_dict") + state + pickle.SETITEM + pickle.STOP


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _plain(value: Any) -> bytes:
    """Returns the opcodes of a plain value, without the protocol header and the stop."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=2)
    pickler.fast = True  # no memo, whose indices would clash
    pickler.dump(value)
    return buffer.getvalue()[2:-1]


_EMPTY = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
