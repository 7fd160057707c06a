"""Experts: networks of one architecture, each for a range of noise (eDiff-I, https://arxiv.org/abs/2211.01324).

Their parameters are stacked, and every step reads those of its expert: one network is evaluated, whatever their number.
Experts are nodes of a binary tree over the noise that training meets: node i of level l is the i-th of 2^l intervals of
equal probability, from the image to noise.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Real

from rdm_jax.core.errors import UserError

SECTION = "experts"  # of a bundle's "diffusion" settings
RANGE = "range"  # there, the times [from, to) that a network is fine-tuned on


@dataclasses.dataclass(frozen=True)
class Experts:
    """Which network each time belongs to.

    Attributes:
      bounds: n - 1 increasing times, where a range of noise ends and the next one begins.
      networks: n numbers in the stack of parameters, of each range from the image to noise; several ranges may share
        one.

    Raises:
      UserError: the numbers do not fit.
    """

    bounds: tuple[float, ...]
    networks: tuple[int, ...]

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in itertools.pairwise(self.bounds))
        if len(self.networks) != len(self.bounds) + 1 or not increasing or set(self.networks) != set(range(self.count)):
            raise UserError(
                f"experts {list(self.networks)} with bounds {list(self.bounds)} are damaged: there are increasing "
                "bounds between the ranges of noise, and a network of each; export the model again"
            )

    @staticmethod
    def of(diffusion: Mapping[str, Any]) -> Experts | None:
        """Returns the experts of a bundle's "diffusion" settings; None if one network takes all noise."""
        if SECTION not in diffusion:
            return None
        section = diffusion[SECTION]
        return Experts(tuple(map(float, section["bounds"])), tuple(map(int, section["networks"])))

    @property
    def count(self) -> int:
        """The number of networks."""
        return max(self.networks, default=0) + 1

    @property
    def section(self) -> dict[str, Any]:
        """The settings that `of` reads."""
        return {"bounds": list(self.bounds), "networks": list(self.networks)}

    def number(self, t: Real[Array, ""]) -> Int[Array, ""]:
        """Returns the number of the network for a time."""
        place = jnp.sum(t >= jnp.asarray(self.bounds, jnp.float32))
        return jnp.asarray(self.networks, jnp.int32)[place]

    def select(self, params: Any, t: Real[Array, ""]) -> Any:
        """Returns the parameters of the network for a time, of stacked ones."""
        number = self.number(t)
        return jax.tree.map(lambda leaf: leaf[number], params)


def interval(level: int, index: int) -> tuple[float, float]:
    """Returns the part of the training noise, as fractions of its probability, of a node of the binary tree.

    Raises:
      UserError: the level has no such node.
    """
    if not 0 <= index < 2**level:
        raise UserError(f"expert_index={index} is out of range; level {level} has the experts 0 to {2**level - 1}")
    return index / 2**level, (index + 1) / 2**level


def arrange(ranges: Sequence[tuple[float, float]], num_timesteps: int) -> tuple[Experts, list[int]]:
    """Returns the experts of nested ranges of time, and which of the ranges are theirs, in their order.

    Each time belongs to the narrowest range that contains it, and of equal ones to the last.

    Args:
      ranges: [from, to); the first one has all times.
      num_timesteps: of the schedule.
    """
    cuts = sorted({0.0, float(num_timesteps), *(float(end) for pair in ranges for end in pair)})
    owners = []
    for begin, end in itertools.pairwise(cuts):
        inside = [i for i, (first, last) in enumerate(ranges) if first <= begin and end <= last]
        owners.append(min(inside, key=lambda i: (ranges[i][1] - ranges[i][0], -i)))
    kept, used = [i for i, owner in enumerate(owners) if i == 0 or owner != owners[i - 1]], sorted(set(owners))
    return Experts(tuple(cuts[i] for i in kept[1:]), tuple(used.index(owners[i]) for i in kept)), used


def stacked_shapes(shapes: Mapping[str, jax.ShapeDtypeStruct], count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the stacked parameters of experts from those of one network."""
    return {path: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype) for path, leaf in shapes.items()}


def stack(params: Sequence[Any]) -> Any:
    """Returns the stacked parameters of networks of one architecture, on the host."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *params)
