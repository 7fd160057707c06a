"""One mesh of devices with the axes `data` and `fsdp`, and where parameters and batches lie on it."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rdm_jax.core.errors import UserError

FSDP_MIN_BYTES = 4 * 2**20


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


def parameter_shardings(mesh: Mesh, abstract: Any) -> Any:
    """Returns a sharding for each leaf: large arrays are split over `fsdp` by their largest divisible axis.

    Arrays under `FSDP_MIN_BYTES` stay whole: splitting them would cost more than it saves.
    """
    ways = mesh.shape["fsdp"]

    def rule(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % ways == 0]
        if ways == 1 or not axes or leaf.size * leaf.dtype.itemsize < FSDP_MIN_BYTES:
            return replicated(mesh)
        split = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*("fsdp" if a == split else None for a in range(leaf.ndim))))

    return jax.tree.map(rule, abstract)


def put_batch(batch: Any, sharding: NamedSharding) -> Any:
    """Puts each process's part of a global batch onto its devices."""
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)
