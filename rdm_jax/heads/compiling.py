"""Compilation ahead of time, with what is split over devices and what is replicated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.core.mesh import replicated

LARGE = 2**27  # parameters from which on YNNPACK's products are no faster than XLA's own


@dataclasses.dataclass(frozen=True)
class Compiler:
    """Compiles the programs of one model.

    Attributes:
      bundle: the model, its parameters on every device.
      network: the part that generates.
      mesh: the devices.
      shared: what several shapes have in common, by key.
    """

    bundle: Bundle
    network: str
    mesh: Mesh
    shared: dict[Hashable, Any]

    @property
    def replicated(self) -> NamedSharding:
        """Where what every device has lies."""
        return replicated(self.mesh)

    def batch(self, size: int) -> NamedSharding:
        """Returns where what belongs to single images lies: split where the devices divide the batch."""
        split = PartitionSpec(self.mesh.axis_names) if size % self.mesh.size == 0 else PartitionSpec()
        return NamedSharding(self.mesh, split)

    def compile(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], places: tuple[Any, ...], out: Any
    ) -> Any:
        """Returns the executable of a function.

        Args:
          function: to compile.
          arguments: arrays or their shapes.
          places: the sharding of each argument, or trees of them.
          out: the sharding of what is returned.
        """
        lowered = jax.jit(function, in_shardings=places, out_shardings=out).lower(*arguments)
        return lowered.compile(compiler_options(self.bundle, self.network))

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns what `make` gives, from the first call with the key on the same."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]


def chunk_size(total: int, most: int) -> int:
    """Returns the largest divisor of `total` up to `most`: chunks of one size need one program."""
    return next(size for size in range(most, 0, -1) if total % size == 0)


def compiler_options(bundle: Bundle, network: str) -> dict[str, str | bool] | None:
    """Returns XLA's options for the programs of a model; None where its defaults are right."""
    if jax.default_backend() != "cpu":
        return None
    # By default what depends on parameters alone is scheduled first, and all of it is then held at once.
    options: dict[str, str | bool] = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if trees.count(bundle.params[network]) < LARGE:
        # Products of small matrices: a sixth off a step of the embedded model, 5 % more on one of 400 M parameters.
        options["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    return options
