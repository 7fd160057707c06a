"""What a training step will cost on chips that are not here: memory, work, traffic and time, without data.

Nothing is computed: the state is an abstract one, and its bytes on a device follow from the sharding rules. Work is
counted in the jaxpr of one device's share of the batch (`flops`), intermediate values are estimated there (`liveness`).
With libtpu installed, the step can also be compiled ahead of time for a slice of TPUs. The time is a roofline's
(`roofline`).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError, first_line
from rdm_jax.training.flops import Counts, count_jaxpr, nbytes, trace
from rdm_jax.training.hardware import CHIPS, Chip
from rdm_jax.training.liveness import peak_bytes_of_jaxpr
from rdm_jax.training.roofline import Bytes, Collective, Prediction, find_collectives, roofline

AXES = ("data", "fsdp")
CHIP_COUNTS = (1, 8, 32, 64, 256)

Shardings = Callable[[Any, Any], Any]  # (mesh, abstract tree) to the NamedSharding of each leaf
TrainStep = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What XLA says of the step compiled ahead of time for TPUs, per device.

    Attributes:
      topology: what it was compiled for ("v5e:16x16").
      arguments: bytes of the state, the frozen parameters and the batch.
      temporaries: bytes of all else at the peak.
      flops: of every operation, loop bodies once.
      bytes: that all operations read and write, loop bodies once.
    """

    topology: str
    arguments: int
    temporaries: int
    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class CostReport:
    """What `dry_run` found.

    Attributes:
      mesh_shape: {"data", "fsdp"}.
      parameters: how many scalars are trained.
      batch_size: of the global batch.
      memory: bytes on one device.
      counts: the work of one device and step.
      collectives: of one step.
      predictions: one for each kind of chip.
      scaling: by chip's name, (chips, prediction) at the same batch on each device and `fsdp` as far as they reach.
      compiled: what XLA says, where the step was compiled for TPUs.
    """

    mesh_shape: dict[str, int]
    parameters: int
    batch_size: int
    memory: Bytes
    counts: Counts
    collectives: tuple[Collective, ...]
    predictions: tuple[Prediction, ...]
    scaling: dict[str, tuple[tuple[int, Prediction], ...]]
    compiled: Compiled | None = None

    @property
    def sent(self) -> float:
        """The bytes that each device sends in a step."""
        return float(sum(collective.sent(self.mesh_shape) for collective in self.collectives))


def dry_run(
    init: Callable[[], Any],
    train_step: TrainStep,
    frozen: Any,
    batch: Any,
    shardings: Shardings,
    mesh_shape: tuple[int, int],
    *,
    chips: Sequence[Chip] = tuple(CHIPS.values()),
    chip_counts: Sequence[int] = CHIP_COUNTS,
    topology: str | None = None,
) -> CostReport:
    """Predicts what a training step costs on a mesh, from shapes alone.

    The step is traced here: attention should be `attention_implementation="xla"`, not what a CPU would choose.

    Args:
      init: makes the state, with fields `params`, `ema` and `opt_state` (others count as `other`); not run.
      train_step: (state, frozen, batch) to (state, metrics), not jitted; not run.
      frozen: the shapes of what the step reads and does not change, whole on every device.
      batch: the shapes of the global batch, examples first, split over all devices.
      shardings: (mesh, abstract state) to the sharding of each leaf, as `core.mesh.state_shardings`.
      mesh_shape: the sizes of `data` and `fsdp`; no such devices need be here.
      chips: what the time is predicted on.
      chip_counts: how many chips the efficiency is predicted at, beside the mesh's own number.
      topology: a slice of TPUs with the mesh's number of chips, as libtpu names it ("v5e:16x16"): the step is then also
        compiled for it.

    Raises:
      UserError: the devices do not divide the batch, or `topology` is none that libtpu can compile for.
    """
    state = jax.eval_shape(init)
    share = _share(batch, math.prod(mesh_shape))
    jaxpr = trace(train_step, state, frozen, share)
    counts = count_jaxpr(jaxpr)
    itemsize = 4 if 2 * counts.float32_flops > counts.flops else 2

    def on(mesh: tuple[int, int]) -> tuple[dict[str, int], Bytes, tuple[Collective, ...]]:
        """Returns a mesh's shape, a device's memory and the collectives there, at the same share of the batch."""
        shape = {"data": mesh[0], "fsdp": mesh[1]}
        places = shardings(abstract_mesh(mesh), state)
        memory = _memory(jaxpr, state, places, (frozen, share), itemsize)
        return shape, memory, find_collectives(state.params, places.params, shape, itemsize)

    def predict(chip: Chip, at: tuple[dict[str, int], Bytes, tuple[Collective, ...]]) -> Prediction:
        """Returns the prediction for a kind of chip."""
        shape, memory, collectives = at
        return roofline(counts, memory, collectives, shape, chip)

    here = on(mesh_shape)
    others = {n: on(mesh) for n, mesh in _meshes(mesh_shape, chip_counts)}
    return CostReport(
        mesh_shape=here[0],
        parameters=trees.count(state.params),
        batch_size=jax.tree.leaves(batch)[0].shape[0],
        memory=here[1],
        counts=counts,
        collectives=here[2],
        predictions=tuple(predict(chip, here) for chip in chips),
        scaling={chip.name: tuple((n, predict(chip, at)) for n, at in others.items()) for chip in chips},
        compiled=compile_for(topology, init, train_step, frozen, batch, shardings, mesh_shape) if topology else None,
    )


def parse_mesh(text: str) -> tuple[int, int]:
    """Returns the mesh shape of "DATAxFSDP".

    Raises:
      UserError: it is not of that form.
    """
    sizes = text.lower().split("x")
    if len(sizes) != 2 or not all(size.isdecimal() and int(size) for size in sizes):
        raise UserError(f"mesh {text!r} is not of the form DATAxFSDP; write 32x8 for 256 devices in groups of eight")
    return int(sizes[0]), int(sizes[1])


def abstract_mesh(mesh_shape: tuple[int, int]) -> AbstractMesh:
    """Returns a mesh of that shape without devices."""
    return AbstractMesh(mesh_shape, AXES, axis_types=(AxisType.Auto,) * 2)


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """Returns the bytes of one device's shards of a tree of shapes."""
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(nbytes(jax.ShapeDtypeStruct(s.shard_shape(leaf.shape), leaf.dtype)) for leaf, s in leaves)


def compile_for(
    topology: str,
    init: Callable[[], Any],
    train_step: TrainStep,
    frozen: Any,
    batch: Any,
    shardings: Shardings,
    mesh_shape: tuple[int, int],
) -> Compiled:
    """Compiles a step for a slice of TPUs that need not be here, and returns what XLA says of it (see `dry_run`).

    Raises:
      UserError: libtpu is missing or does not know the topology, or that has another number of chips than the mesh, or
        the step does not fit into its memory.
    """
    mesh = _tpu_mesh(topology, mesh_shape)
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXES))
    state = jax.eval_shape(init)
    places = shardings(mesh, state)
    jitted = jax.jit(train_step, donate_argnums=0, out_shardings=(places, whole))
    lowered = jitted.lower(
        jax.tree.map(_placed, state, places),
        jax.tree.map(lambda leaf: _placed(leaf, whole), frozen),
        jax.tree.map(lambda leaf: _placed(leaf, split), batch),
    )
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"the step cannot be compiled for {topology}: {first_line(error)}") from error
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis()
    return Compiled(
        topology,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        cost["flops"],
        cost["bytes accessed"],
    )


def tpu_topology(devices: int) -> str | None:
    """Returns the slice of v5e with that many chips, or None if there is none or no libtpu to compile with."""
    known = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
    return f"v5e:{known[devices]}" if devices in known and importlib.util.find_spec("libtpu") else None


def table(report: CostReport) -> str:
    """Returns a report as aligned text."""
    mesh, memory, counts = report.mesh_shape, report.memory, report.counts
    devices = math.prod(mesh.values())
    lines = [
        f"{devices} devices, data {mesh['data']} x fsdp {mesh['fsdp']}, a batch of {report.batch_size}: "
        f"{report.parameters / 1e6:,.1f} M parameters trained",
        "",
        "bytes per device",
        *(f"  {field.name:<12}{_size(getattr(memory, field.name)):>12}" for field in dataclasses.fields(memory)),
        f"  {'total':<12}{_size(memory.total):>12}",
        f"FLOPs per device and step  {counts.flops / 1e12:,.3f} T ({counts.float32_flops / 1e12:,.3f} T in float32)",
        f"collectives, sent by each  {_size(report.sent)}",
        *(f"  {one.what:<26}{_size(one.sent(mesh)):>12}" for one in report.collectives),
        *(["a loop of unknown length was counted once"] if counts.unknown_loops else []),
        *_compiled_lines(report),
        "",
        "the least time per step (a roofline; network: nothing .. all of it beside the work)",
        *_aligned([_HEADER, *(_row(one) for one in report.predictions)]),
        "",
        f"efficiency by chips: {report.batch_size // devices} examples on each, fsdp up to {mesh['fsdp']}",
        *_aligned(_scaling(report)),
    ]
    return "\n".join(line.rstrip() for line in lines)


_HEADER = ["", "compute", "memory", "network", "step", "bound by", "efficiency", "fits"]


def _row(one: Prediction) -> list[str]:
    times = [_duration(seconds) for seconds in (one.compute, one.memory, one.network)]
    step = f"{_duration(one.overlapped)} .. {_duration(one.seconds)}"
    return [one.chip.name, *times, step, one.bound, _efficiency(one), "yes" if one.fits else "no"]


def _scaling(report: CostReport) -> list[list[str]]:
    counts = [str(n) for n, _ in next(iter(report.scaling.values()), ())]
    rows = [[name, *(_efficiency(one) for _, one in row)] for name, row in report.scaling.items()]
    return [["chips", *counts], *rows]


def _compiled_lines(report: CostReport) -> list[str]:
    one = report.compiled
    if one is None:
        return ["analytic: counted in the jaxpr and estimated, compiled for no device"]
    return [
        f"compiled for {one.topology}: {_size(one.arguments)} of arguments and {_size(one.temporaries)} beside them; "
        f"{one.flops / 1e12:,.3f} TFLOP, {_size(one.bytes)} read and written (loop bodies once)"
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _efficiency(one: Prediction) -> str:
    return f"{one.efficiency:.1%} .. {one.efficiency_overlapped:.1%}"


def _duration(seconds: float) -> str:
    """Returns a duration with three digits or more, in milliseconds or, where it is shorter, in smaller units."""
    unit, many = next(((unit, many) for unit, many in (("ms", 1e3), ("us", 1e6)) if seconds * many >= 1), ("ns", 1e9))
    return f"{seconds * many:,.{1 if seconds * many >= 10 else 2}f} {unit}" if seconds else "0"


def _size(count: float | int) -> str:
    return f"{count / 1e9:,.3f} GB" if count >= 1e7 else f"{count / 1e6:,.3f} MB"


def _share(batch: Any, devices: int) -> Any:
    """Returns the shapes of one device's share of a batch."""

    def cut(leaf: Any) -> jax.ShapeDtypeStruct:
        """Returns the shape with the first axis divided."""
        if leaf.shape[0] % devices:
            raise UserError(f"a batch of {leaf.shape[0]} is not divided by {devices} devices; choose a multiple")
        return jax.ShapeDtypeStruct((leaf.shape[0] // devices, *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(cut, batch)


def _memory(jaxpr: Any, state: Any, places: Any, whole: Any, itemsize: int) -> Bytes:
    """Returns one device's bytes: of the state where it lies, of what is whole, and of the values within the step."""
    pairs = list(zip(jax.tree.leaves(state.params), jax.tree.leaves(places.params), strict=True))
    parts = {leaf.shape: math.prod(place.shard_shape(leaf.shape)) / leaf.size for leaf, place in pairs}
    split = [leaf.size * min(leaf.dtype.itemsize, itemsize) for leaf, _ in pairs if parts[leaf.shape] < 1]
    gradients = sum(math.prod(p.shard_shape(x.shape)) * min(x.dtype.itemsize, itemsize) for x, p in pairs)
    # What has a parameter's shape is its gradient or its update, and split as it is.
    peak = peak_bytes_of_jaxpr(jaxpr, size=lambda value: nbytes(value) * parts.get(value.shape, 1.0))
    parameters = bytes_per_device(state.params, places.params)
    ema = bytes_per_device(state.ema, places.ema)
    optimizer = bytes_per_device(state.opt_state, places.opt_state)
    return Bytes(
        parameters=parameters,
        ema=ema,
        optimizer=optimizer,
        other=bytes_per_device(state, places) - parameters - ema - optimizer + sum(map(nbytes, jax.tree.leaves(whole))),
        gradients=gradients,
        gathered=2 * max(split, default=0),
        activations=max(peak - gradients, 0),
    )


def _meshes(mesh_shape: tuple[int, int], chip_counts: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
    """Returns (chips, mesh) for each number of chips: `fsdp` is filled first, as far as it divides them."""
    _, fsdp = mesh_shape
    numbers = sorted({*chip_counts, math.prod(mesh_shape)})
    ways = [math.gcd(n, fsdp) for n in numbers]
    return [(n, (n // way, way)) for n, way in zip(numbers, ways, strict=True)]


def _placed(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _tpu_mesh(topology: str, mesh_shape: tuple[int, int]) -> Mesh:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"to compile for {topology}, install libtpu: pip install libtpu")
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask for its place
    try:
        devices = topologies.get_topology_desc(topology, platform="tpu").devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(
            f"libtpu gives no topology {topology!r} (they read as v5e:16x16): {first_line(error)}"
        ) from error
    if len(devices) != math.prod(mesh_shape):
        raise UserError(
            f"{topology} has {len(devices)} chips, the mesh {math.prod(mesh_shape)}; choose one for the other"
        )
    return jax.make_mesh(mesh_shape, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
