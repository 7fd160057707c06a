"""The least time that a training step takes on a kind of chip: a roofline (https://doi.org/10.1145/1498765.1498785).

  compute = FLOPs of products / the chip's peak
  memory  = (operands and results of products + state and gradients, each read and written) / HBM bandwidth
  network = the collectives: rings within a domain, and between domains rings of each chip's share
  step    = max(compute, memory) + network where nothing overlaps, max of all three where everything does

Collectives are those of the rules in `core.mesh`: a parameter split over `fsdp` is gathered in the forward and again in
the backward pass, its gradient is reduced and scattered over `fsdp` and the shards summed over `data`; a whole
parameter's gradient is summed over all devices. They travel in the type that products are computed in, as in XLA's
programs for TPUs. Latency, stragglers, the input pipeline and elementwise work are left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rdm_jax.training.flops import Counts
from rdm_jax.training.hardware import Chip


@dataclasses.dataclass(frozen=True)
class Bytes:
    """The bytes on one device, by what they are.

    Attributes:
      parameters: its shards.
      ema: the same of their average.
      optimizer: the same of the optimizer's state.
      other: counters, statistics, frozen parameters and its part of the batch.
      gradients: its shards of the gradient, in the type that products are computed in.
      gathered: two of the largest split parameters, whole, in that type: one in use and the next on its way.
      activations: an estimate of what else the step holds at its peak.
    """

    parameters: int
    ema: int
    optimizer: int
    other: int
    gradients: int
    gathered: int
    activations: int

    @property
    def state(self) -> int:
        """What is read and written at every update."""
        return self.parameters + self.ema + self.optimizer

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of collective of a step.

    Attributes:
      what: for people.
      axes: the mesh's axes over which it goes.
      bytes: the array's size, whole as the devices of these axes hold it between them.
      passes: how often it goes around: 1 to gather or to scatter, 2 to sum.
    """

    what: str
    axes: tuple[str, ...]
    bytes: int
    passes: int

    def sent(self, mesh_shape: Mapping[str, int]) -> float:
        """Returns the bytes that each device sends: passes (n - 1) / n bytes."""
        n = math.prod(mesh_shape[axis] for axis in self.axes)
        return self.passes * (n - 1) / n * self.bytes

    def seconds(self, mesh_shape: Mapping[str, int], chip: Chip) -> float:
        """Returns how long it takes: a ring within each domain, and a ring between domains of each chip's part.

        `fsdp` is the inner axis: its neighbors are the nearest.
        """
        n = math.prod(mesh_shape[axis] for axis in self.axes)
        room = chip.domain if "fsdp" in self.axes else max(chip.domain // mesh_shape["fsdp"], 1)
        inner = max(size for size in range(1, min(n, room) + 1) if n % size == 0)
        outer = n // inner
        within = (inner - 1) / inner * self.bytes / chip.link_bandwidth
        between = (outer - 1) / outer * self.bytes / inner / chip.network_bandwidth
        return self.passes * (within + between)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The least time that a step can take on one kind of chip.

    Attributes:
      chip: which.
      compute: seconds of its products at their peak rate.
      memory: seconds of its traffic with HBM.
      network: seconds of its collectives.
      fits: whether the estimated bytes are at most its memory.
    """

    chip: Chip
    compute: float
    memory: float
    network: float
    fits: bool

    @property
    def work(self) -> float:
        """Seconds of a step whose collectives cost nothing."""
        return max(self.compute, self.memory)

    @property
    def seconds(self) -> float:
        """Seconds of a step whose collectives wait for the work and the work for them."""
        return self.work + self.network

    @property
    def overlapped(self) -> float:
        """Seconds of a step whose collectives run wholly beside the work."""
        return max(self.work, self.network)

    @property
    def bound(self) -> str:
        """What takes longest: "compute", "memory" or "network"."""
        return max(("compute", "memory", "network"), key=lambda name: getattr(self, name))

    @property
    def efficiency(self) -> float:
        """The fraction of a step that does not wait for the network, if nothing overlaps."""
        return self.work / self.seconds

    @property
    def efficiency_overlapped(self) -> float:
        """The same where everything overlaps."""
        return self.work / self.overlapped


def find_collectives(
    params: Any, shardings: Any, mesh_shape: Mapping[str, int], itemsize: int = 4
) -> tuple[Collective, ...]:
    """Returns the collectives of a step, those that send nothing left out.

    Args:
      params: the shapes of what is trained.
      shardings: of each.
      mesh_shape: {"data", "fsdp"}.
      itemsize: bytes that a number has on its way; no parameter travels wider than it is.
    """
    split = whole = 0
    for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True):
        if sharding.shard_shape(leaf.shape) == leaf.shape:
            whole += leaf.size * min(leaf.dtype.itemsize, itemsize)
        else:
            split += leaf.size * min(leaf.dtype.itemsize, itemsize)
    found = (
        Collective("gather parameters", ("fsdp",), split, 2),
        Collective("scatter gradients", ("fsdp",), split, 1),
        Collective("sum scattered gradients", ("data",), split // mesh_shape["fsdp"], 2),
        Collective("sum whole gradients", ("data", "fsdp"), whole, 2),
    )
    return tuple(one for one in found if one.sent(mesh_shape))


def roofline(
    counts: Counts, memory: Bytes, collectives: Sequence[Collective], mesh_shape: Mapping[str, int], chip: Chip
) -> Prediction:
    """Returns the least time of one device's step on a kind of chip."""
    compute = (counts.flops - counts.float32_flops) / chip.bfloat16 + counts.float32_flops / chip.float32
    traffic = counts.bytes + 2 * memory.state + 2 * memory.gradients
    network = float(sum(collective.seconds(mesh_shape, chip) for collective in collectives))
    return Prediction(chip, compute, traffic / chip.memory_bandwidth, network, memory.total <= chip.memory)
