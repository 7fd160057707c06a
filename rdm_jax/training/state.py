"""The state of a training run at a step: arrays only."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class State:
    """A training run's arrays.

    Attributes:
      step: [] int32, the number of updates (or its shape or sharding, as for all fields).
      params: {part: parameters} in float32.
      ema: the moving average of the parts that are exported.
      opt_state: optax's state.
      stats: what the loss updates without a gradient, as the running means of batch norms.
    """

    step: Any
    params: Any
    ema: Any
    opt_state: Any
    stats: Any


@flax.struct.dataclass
class Extras:
    """What a loss reads beside the trained parameters.

    Attributes:
      stats: as in `State`; the loss returns the updated ones.
      frozen: parameters of networks that are not trained (a first stage, a perceptual distance), in no checkpoint.
    """

    stats: Any
    frozen: Any


def abstract_like(state: Any) -> Any:
    """Returns the shapes, types and shardings of a tree of arrays, as a target for restoring."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
