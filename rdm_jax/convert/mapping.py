"""Puts foreign weights into the parameters of a network, every name accounted for.

The network says what it needs: for each of its parameters a rule names the foreign tensors that make it. Names that
are missing, left over or of another shape are reported together.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError

Table = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """The foreign tensors of one parameter: laid end to end along their first axis, then made a kernel if it is one.

    `as_stored` marks a kernel that is stored (in, out) already.
    """

    names: tuple[str, ...]
    as_stored: bool = False


def rename(name: str, table: Table) -> str:
    """Returns `name` after every (pattern, replacement) of the table, in order."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def assemble(
    state: Mapping[str, np.ndarray],
    targets: Mapping[str, jax.ShapeDtypeStruct],
    source_of: Callable[[str], Source],
    *,
    what: str,
    ignored: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """Returns nested parameters made of foreign tensors, with float types cast to the network's.

    Convolutions (out, in, h, w) become (h, w, in, out), matrices (out, in) and 1x1 convolutions become (in, out).

    Args:
      state: the foreign tensors, of this network alone.
      targets: the network's parameters, as `models.abstract_params` gives them.
      source_of: the foreign names of a parameter's path.
      what: the network's name in the error.
      ignored: tells which foreign names may be left over.

    Raises:
      UserError: names are missing, unexpected or mis-shaped, each listed.
    """
    sources = {path: source_of(path) for path in targets}
    wanted = {name for source in sources.values() for name in source.names}
    missing = sorted(wanted - set(state))
    unexpected = sorted(name for name in set(state) - wanted if not ignored(name))
    params, misshaped = {}, []
    for path, source in sources.items():
        if not all(name in state for name in source.names):
            continue
        value = _to_parameter([state[name] for name in source.names], path, targets[path], source.as_stored)
        if value is None:
            found = ", ".join(f"{name} {tuple(state[name].shape)}" for name in source.names)
            misshaped.append(f"{found} for {path} {tuple(targets[path].shape)}")
        params[path] = value
    problems = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshaped}
    if any(problems.values()):
        report = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise UserError(f"the weights do not fit the {what}, check its configuration; {report}")
    return trees.unflatten(params)


def _to_parameter(
    parts: Iterable[np.ndarray], path: str, target: jax.ShapeDtypeStruct, as_stored: bool
) -> np.ndarray | None:
    parts = list(parts)
    if len({part.shape[1:] for part in parts}) > 1:
        return None
    value = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if path.endswith("kernel") and not as_stored:
        if value.ndim == 4 and len(target.shape) == 2 and value.shape[2:] == (1, 1):
            value = value[:, :, 0, 0]
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    if value.shape != target.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        return None
    return np.asarray(value, dtype=target.dtype, order="C")
