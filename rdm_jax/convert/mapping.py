"""Maps foreign weights to the parameters of a network, and back, with every name accounted for.

For each parameter of the network a rule names its foreign tensors. Names that are missing, unexpected or of another
shape are reported together. Parameters are read one at a time, when they are written.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError, bounded, some
from rdm_jax.models import abstract_params

Table = tuple[tuple[str, str], ...]

_NUMBERS = "fiuV"  # kinds of types with numbers; V is bfloat16's

# Types that are kept as stored; the network computes in float32.
KEPT_TYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32))


class Subset(Mapping[str, np.ndarray]):
    """Some of the tensors of a state, each still read on access."""

    def __init__(self, state: Mapping[str, np.ndarray], prefix: str) -> None:
        self._state = state
        self._names = dict.fromkeys(name for name in state if name.startswith(prefix))

    def __getitem__(self, name: str) -> np.ndarray:
        self._names[name]
        return self._state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclasses.dataclass(frozen=True)
class Source:
    """The foreign tensors of one parameter, which concatenates them along its last axis.

    Attributes:
      names: of the foreign tensors.
      as_stored: a matrix that is stored (in, out).
      pixel_axes: 1 or 2 for a matrix that is stored as a convolution of one pixel, in one or two dimensions.
      transposed: a matrix that is no kernel and is stored transposed.
      swapped: (a, b) where the outputs are stored in a groups of b groups each, and are b groups of a in the parameter:
        queries, keys and values of each head, or the heads of all of them.
      squeezed: a vector that is stored with a leading axis of one.
      flattened: a vector that is stored with several axes of one; it cannot be written back.
      part: (i, n) where the parameter is the i-th of n equal parts of the outputs; it cannot be written back.
      leading: (k, n) where the parameter has the first k of every n outputs; it cannot be written back.
    """

    names: tuple[str, ...]
    as_stored: bool = False
    pixel_axes: int = 0
    transposed: bool = False
    swapped: tuple[int, int] | None = None
    squeezed: bool = False
    flattened: bool = False
    part: tuple[int, int] | None = None
    leading: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one parameter is assembled from foreign tensors, which `read` reads.

    Attributes:
      state: the foreign tensors.
      source: the tensors of the parameter.
      path: of the parameter.
      shape: of the parameter.
      dtype: the stored one if it is in `KEPT_TYPES`, otherwise float32.
    """

    state: Mapping[str, np.ndarray]
    source: Source
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        """Returns the parameter.

        Raises:
          UserError: a number is not finite; the message names the tensor.
        """
        parts = [to_parameter(self.state[name], self.path, len(self.shape), self.source) for name in self.source.names]
        for name, part in zip(self.source.names, parts, strict=True):
            if not np.isfinite(part).all():
                raise UserError(f"{name} holds numbers that are not finite; download the weights again")
        value = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        if self.source.swapped:
            value = _swap_groups(value, *self.source.swapped)
        return np.asarray(value, self.dtype, order="C")  # ascontiguousarray would add an axis to a scalar


@dataclasses.dataclass(frozen=True)
class Zeros:
    """A parameter whose foreign tensor may be missing."""

    shape: tuple[int, ...]
    dtype: np.dtype = dataclasses.field(default_factory=lambda: np.dtype(np.float32))

    def read(self) -> np.ndarray:
        """Returns zeros."""
        return np.zeros(self.shape, self.dtype)


Parameter = Recipe | Zeros


def rename(name: str, table: Table) -> str:
    """Returns `name` after every (pattern, replacement) of the table, in order."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def built(what: str, build: Callable[[Any], Any], settings: Mapping[str, Any]) -> Any:
    """Returns the network of settings that were read from a foreign file or from the shapes of its tensors.

    Args:
      what: the network's name in the error.
      build: the function from settings to the network.
      settings: of any values.

    Raises:
      UserError: the settings describe no network.
    """
    with bounded(f"the configuration describes no {what} that can be built", "take the one that came with the weights"):
        network = build(settings)
        abstract_params(network)
    return network


def shape_of(state: Mapping[str, np.ndarray], name: str, rank: int, what: str) -> tuple[int, ...]:
    """Returns the shape of a tensor with `rank` axes.

    Args:
      state: the foreign tensors.
      name: of the tensor.
      rank: the number of its axes, none of which is empty.
      what: the network's name in the error.

    Raises:
      UserError: it is missing, or has another number of axes or an empty one.
    """
    if name not in state:
        raise UserError(f"the {what} lacks {name}; download the weights again")
    shape = tuple(state[name].shape)
    if len(shape) != rank or 0 in shape:
        raise UserError(
            f"{name} of the {what} has shape {shape}, and one with {rank} axes is needed; download the weights again"
        )
    return shape


def number_of(state: Mapping[str, np.ndarray], name: str) -> float:
    """Returns the number that a tensor of one element holds, whatever its axes; raises UserError if it is none."""
    value = np.asarray(state[name])
    number = float(value.reshape(-1)[0]) if value.size == 1 and value.dtype.kind in _NUMBERS else np.nan
    if not np.isfinite(number):
        raise UserError(f"{name} has shape {value.shape} and type {value.dtype}, and one number is needed")
    return number


def plan(
    state: Mapping[str, np.ndarray],
    targets: Mapping[str, jax.ShapeDtypeStruct],
    source_of: Callable[[str], Source],
    *,
    what: str,
    ignored: Callable[[str], bool] = lambda name: False,
    allowed: frozenset[str] = frozenset(),
) -> dict[str, Parameter]:
    """Returns how each parameter is assembled from foreign tensors; checks their shapes and reads nothing.

    Convolutions (out, in, h, w) become (h, w, in, out), matrices (out, in) and pointwise convolutions become (in, out).

    Args:
      state: the foreign tensors, of this network alone.
      targets: the network's parameters, as `models.abstract_params` gives them.
      source_of: the foreign names of a parameter's path.
      what: the network's name in the error.
      ignored: whether a foreign name may be unused.
      allowed: names that may be missing (their parameters are zeros) or unused.

    Raises:
      UserError: names are missing, unexpected or mis-shaped; the message counts them and lists the first.
    """
    sources = {path: source_of(path) for path in targets}
    required = {name for source in sources.values() for name in source.names}
    missing = sorted(required - set(state) - allowed)
    unexpected = sorted(name for name in set(state) - required - allowed if not ignored(name))
    recipes: dict[str, Parameter] = {}
    misshaped = []
    for path, source in sources.items():
        shape = tuple(targets[path].shape)
        if not all(name in state for name in source.names):
            recipes[path] = Zeros(shape)
            continue
        parts = [state[name] for name in source.names]
        if _shape([to_parameter(part, path, len(shape), source) for part in parts]) != shape:
            shapes = ", ".join(f"{name} {part.shape}" for name, part in zip(source.names, parts, strict=True))
            misshaped.append(f"{shapes} for {path} {shape}")
        dtype = parts[0].dtype if parts[0].dtype in KEPT_TYPES else np.dtype(np.float32)
        recipes[path] = Recipe(state, source, path, shape, dtype)
    problems = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshaped}
    if any(problems.values()):
        report = "; ".join(f"{len(names)} {kind}: {some(names)}" for kind, names in problems.items() if names)
        raise UserError(f"the weights do not fit the {what}, check its configuration; {report}")
    return recipes


def assemble(recipes: Mapping[str, Parameter]) -> dict[str, Any]:
    """Returns the nested float32 parameters of a plan.

    Raises:
      UserError: a number is not finite; the message names the tensor.
    """
    return trees.unflatten({path: np.asarray(recipe.read(), np.float32) for path, recipe in recipes.items()})


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A foreign tensor made of a parameter, or of an equal part of it, which `read` reads.

    Attributes:
      params: the parameters by their paths.
      path: the parameter.
      source: its foreign tensors.
      part: the number of this one.
    """

    params: Mapping[str, np.ndarray]
    path: str
    source: Source
    part: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the foreign tensor."""
        return self._view().shape

    @property
    def dtype(self) -> np.dtype:
        """Of the foreign tensor, that of the parameter."""
        return self.params[self.path].dtype

    def read(self) -> np.ndarray:
        """Returns the foreign tensor."""
        return np.asarray(self._view(), order="C")

    def _view(self) -> np.ndarray:
        value, parts = self.params[self.path], len(self.source.names)
        if self.source.swapped:
            value = _swap_groups(value, *reversed(self.source.swapped))
        return _from_parameter(
            np.split(value, parts, axis=-1)[self.part] if parts > 1 else value, self.path, self.source
        )


def disassemble(params: Mapping[str, np.ndarray], source_of: Callable[[str], Source]) -> dict[str, Foreign]:
    """Returns the foreign tensors of parameters {"a/b/kernel": array}, the inverse of `plan`."""
    sources = {path: source_of(path) for path in params}
    return {
        name: Foreign(params, path, source, part)
        for path, source in sources.items()
        for part, name in enumerate(source.names)
    }


def to_parameter(value: np.ndarray, path: str, ndim: int, source: Source) -> np.ndarray:
    """Returns a view of a foreign tensor with the axes of a parameter, of which there are `ndim`."""
    if source.part and value.ndim:
        index, parts = source.part
        value = value[index * (len(value) // parts) : (index + 1) * (len(value) // parts)]
    if source.flattened:
        return value.reshape(-1)
    if source.squeezed and value.ndim > 1 and value.shape[0] == 1:
        return value[0]
    if source.leading and value.ndim and not len(value) % source.leading[1]:
        kept, of = source.leading
        groups = value.reshape(len(value) // of, of, *value.shape[1:])
        value = groups[:, :kept].reshape(len(value) // of * kept, *value.shape[1:])
    if source.transposed:
        return value.T
    if not path.endswith("kernel") or source.as_stored:
        return value
    if value.ndim > ndim == 2 and set(value.shape[2:]) == {1}:
        value = value.reshape(value.shape[:2])
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _swap_groups(value: np.ndarray, outer: int, inner: int) -> np.ndarray:
    """Returns an array whose last axis, `outer` groups of `inner` groups each, has `inner` groups of `outer`."""
    groups = value.reshape(*value.shape[:-1], outer, inner, value.shape[-1] // (outer * inner))
    return groups.swapaxes(-3, -2).reshape(value.shape)


def _from_parameter(value: np.ndarray, path: str, source: Source) -> np.ndarray:
    """Returns a view of a parameter with the axes of its foreign tensor."""
    if source.squeezed:
        return value[None]
    if source.transposed:
        return value.T
    if not path.endswith("kernel") or source.as_stored:
        return value
    value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return value.reshape(*value.shape, *(1,) * source.pixel_axes)


def _shape(parts: list[np.ndarray]) -> tuple[int, ...] | None:
    """Returns the shape of float tensors concatenated along their last axis; None if they cannot be."""
    if len(parts) > 1 and not all(part.ndim for part in parts):
        return None
    if len({part.shape[:-1] for part in parts}) > 1 or not all(jnp.issubdtype(p.dtype, jnp.floating) for p in parts):
        return None
    return parts[0].shape if len(parts) == 1 else (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
