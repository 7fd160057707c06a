"""What a training run is at a step: arrays only."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class State:
    """A training run's arrays.

    Attributes:
      step: [] int32, how many updates were made (or its shape or sharding, as everything here may be).
      params: {part: parameters} in float32.
      ema: the moving average of `params`, what is exported.
      opt_state: optax's state.
    """

    step: Any
    params: Any
    ema: Any
    opt_state: Any


def abstract_like(state: State) -> State:
    """Returns the state's shapes, types and shardings, as a target for restoring."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
