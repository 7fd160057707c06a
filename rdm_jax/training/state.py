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
      ema: the moving average of those parts that are exported.
      opt_state: optax's state.
      stats: what the loss keeps from step to step and no gradient changes, as the running means of batch norms.
    """

    step: Any
    params: Any
    ema: Any
    opt_state: Any
    stats: Any


@flax.struct.dataclass
class Held:
    """What a loss reads beside the parameters.

    Attributes:
      stats: as in `State`; the loss returns what becomes of them.
      frozen: parameters of networks that are not trained (a first stage, a perceptual distance); never in a checkpoint.
    """

    stats: Any
    frozen: Any


def abstract_like(state: State) -> State:
    """Returns the state's shapes, types and shardings, as a target for restoring."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
