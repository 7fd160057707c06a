"""One mesh of devices with the axes `data` and `fsdp`, and where parameters and batches lie on it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from rdm_jax.core.errors import UserError, unknown

FSDP_MIN_BYTES = 4 * 2**20

Rules = Sequence[tuple[str, str]]


def make_mesh(fsdp: int = 1) -> Mesh:
    """Returns a mesh over all devices of all processes, shaped (devices / fsdp, fsdp).

    The axes are `Auto`: linen's layers do not survive the `Explicit` ones that `jax.make_mesh` would choose.

    Raises:
      UserError: `fsdp` does not divide the number of devices.
    """
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise UserError(f"mesh fsdp={fsdp} does not divide the {devices} devices; choose a divisor")
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def local_mesh() -> Mesh:
    """Returns a mesh over the devices of this process alone, for work that the processes do apart from each other."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices), 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(mesh: Mesh | AbstractMesh, abstract: Any, rules: Rules = ()) -> Any:
    """Returns a sharding for each array of a training state, by the first rule whose expression its name matches.

    Args:
      mesh: of the devices.
      abstract: arrays or their shapes, whose names are their paths: "params/unet/in_0/kernel", "ema/unet/in_0/kernel",
        "opt_state/0/mu/unet/in_0/kernel".
      rules: (regular expression, tactic) before the usual ones: large arrays are split, small ones stay whole. It is to
        match a whole name; tactics are those of `TACTICS`.

    Raises:
      UserError: there is no such tactic.
    """
    ordered = [(re.compile(pattern), _tactic(name)) for pattern, name in (*rules, *DEFAULT_RULES)]
    ways = mesh.shape["fsdp"]

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        tactic = next(tactic for pattern, tactic in ordered if pattern.fullmatch(name))
        return NamedSharding(mesh, tactic(leaf, ways) if ways > 1 else PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, abstract)


def _tactic(name: str) -> Callable[[Any, int], PartitionSpec]:
    if name not in TACTICS:
        raise unknown("sharding tactic", name, TACTICS)
    return TACTICS[name]


def _whole(leaf: Any, ways: int) -> PartitionSpec:
    return PartitionSpec()


def _split(leaf: Any, ways: int) -> PartitionSpec:
    axes = [axis for axis, size in enumerate(leaf.shape) if size % ways == 0 and size]
    if not axes:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: leaf.shape[axis])
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(leaf.ndim)))


def _split_large(leaf: Any, ways: int) -> PartitionSpec:
    # To gather a small array at every step would cost more than the memory that its partition saves.
    return _split(leaf, ways) if leaf.size * leaf.dtype.itemsize >= FSDP_MIN_BYTES else PartitionSpec()


TACTICS: Mapping[str, Callable[[Any, int], PartitionSpec]] = {
    "whole": _whole,
    "split": _split,
    "split_large": _split_large,
}
"""By name: `whole` on every device, `split` over fsdp by the largest axis that divides, `split_large` from 4 MiB on."""

DEFAULT_RULES: Rules = ((r".*/(scale|bias)", "whole"), (r".*", "split_large"))


def put_batch(batch: Any, sharding: NamedSharding) -> Any:
    """Puts each process's part of a global batch onto its devices."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)


def put_whole(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays that every process has onto all devices, whole."""
    sharding = replicated(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array, global_shape=array.shape), tree
    )


def put(tree: Any, shardings: Any) -> Any:
    """Puts arrays that every process has onto the devices of all of them.

    Args:
      tree: NumPy arrays or numbers; what lies where it belongs already stays there.
      shardings: a sharding for all of them, or a tree of them that `tree` begins with.
    """

    def one(sharding: NamedSharding, branch: Any) -> Any:
        """Puts what one sharding is for."""
        return jax.tree.map(
            lambda leaf: leaf if isinstance(leaf, jax.Array) and leaf.sharding == sharding else _spread(leaf, sharding),
            branch,
        )

    return jax.tree.map(one, shardings, tree)


def _spread(array: Any, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(np.shape(array), sharding, np.asarray(array).__getitem__)


def put_locally(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays whole onto the devices of a mesh of this process: NumPy's, or what devices of all processes hold."""

    def own(array: Any) -> Any:
        """Returns what this process has of an array, which is all of it."""
        shared = isinstance(array, jax.Array) and not array.is_fully_addressable
        return array.addressable_data(0) if shared else array

    return jax.device_put(jax.tree.map(own, tree), replicated(mesh))


def on_host(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays that lie on the devices of all processes as NumPy arrays, in every process."""
    return jax.device_get(_gather(mesh)(tree))


@functools.cache
def _gather(mesh: Mesh) -> Callable[[Any], Any]:
    """Returns the one function of a mesh that puts arrays on all devices whole; a new one would compile again."""
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))
