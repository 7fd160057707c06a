"""Files of weights: PyTorch's and safetensors, alone, in shards with an index, or in a variant such as fp16."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from rdm_jax.convert.safetensors_file import SafetensorsFile
from rdm_jax.convert.torch_file import is_legacy, read_state_dict
from rdm_jax.core import text
from rdm_jax.core.errors import UserError

_NAME = re.compile(
    r"(?:model|diffusion_pytorch_model|pytorch_model)(?:\.(?P<variant>[a-z0-9_]+))?\.(?P<kind>safetensors|bin)"
    r"|(?:model|diffusion_pytorch_model|pytorch_model)\.(?P<index_kind>safetensors|bin)"
    r"(?:\.(?P<before>[a-z0-9_]+))?\.index(?:\.(?P<behind>[a-z0-9_]+))?\.json"
)
_EXAMPLES = "model.safetensors, diffusion_pytorch_model.safetensors, pytorch_model.bin"
_INDEX = "model.safetensors.index.json"


class Shards(Mapping[str, np.ndarray]):
    """The tensors of several files by name, each read on access.

    Args:
      files: that hold them.

    Raises:
      UserError: a file is missing or damaged.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._states = {name: state for state in map(read_tensors, files) for name in state}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._states[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)


def read_tensors(path: Path) -> Mapping[str, np.ndarray]:
    """Returns the tensors of a PyTorch checkpoint or a safetensors file, each read on access.

    Raises:
      UserError: the file is missing, damaged, or neither.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_POINTER))
        if zipfile.is_zipfile(path) or start.startswith(b"PK") or is_legacy(path):
            return read_state_dict(path)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; give a file of weights or a CLIP's folder"
        ) from error
    if start[8:9] == b"{":
        return SafetensorsFile(path)
    if start == _POINTER:
        raise UserError(f"{path} is a pointer of Git LFS and holds no weights; download the file itself")
    raise UserError(f"{path} is neither a PyTorch checkpoint nor a safetensors file; give one of these")


_POINTER = b"version https://git-lfs"


def weights_of(folder: Path) -> tuple[Mapping[str, np.ndarray], tuple[Path, ...]]:
    """Returns the tensors of a folder of Hugging Face, and the files that hold them.

    Full precision is preferred to a variant, safetensors to PyTorch's format, and one file to shards.

    Raises:
      UserError: there are none, a shard is missing, or a file is damaged.
    """
    found = [(match, path) for path in sorted(folder.glob("*")) if (match := _NAME.fullmatch(path.name))]
    if not found and next(folder.glob("*-of-*"), None):
        raise UserError(f"{folder} has shards of weights without their index (such as {_INDEX}); download it too")
    if not found:
        raise UserError(f"{folder} has no weights ({_EXAMPLES}, or their shards with an index); download it again")
    file = min(found, key=lambda one: _rank(one[0]))[1]
    files = (file,) if file.suffix != ".json" else _shards_of(file)
    return (Shards(files) if file.suffix == ".json" else read_tensors(file)), files


def _rank(match: re.Match[str]) -> tuple[bool, str, bool, bool]:
    variant = match["variant"] or match["before"] or match["behind"] or ""
    # fp16 before bf16, fp32 or non_ema: it is the one that releases have beside the full precision
    return bool(variant), "" if variant == "fp16" else variant, bool(match["index_kind"]), "bin" in match.groups()


def _shards_of(index: Path) -> tuple[Path, ...]:
    try:
        content = text.read_json(index)
    except (OSError, ValueError) as error:
        raise UserError(f"{index} cannot be read ({error}); download it again") from error
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index} is no index of shards: it has no weight_map; download it again")
    names = sorted(set(places.values()))
    missing = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index.parent} lacks {', '.join(missing)}, of the {len(names)} shards; download it")
    return tuple(index.parent / name for name in names)
