"""Statistics of vectors that a network stores beside its weights, as parameters without a gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def mean_and_std(module: nn.Module, of: str, dim: int) -> tuple[Float[Array, "1 d"], Float[Array, "1 d"]]:
    """Returns the parameters `{of}_mean` and `{of}_std` of a module, within a compact method or `setup`.

    They are 0 and 1 at initialization; a training task sets them to what it measures. No update changes them: their
    gradient is 0, and vectors do not decay.

    Args:
      module: that has the parameters.
      of: which vectors they describe.
      dim: the size of a vector.
    """
    mean: Any = module.param(f"{of}_mean", nn.initializers.zeros, (dim,))
    std: Any = module.param(f"{of}_std", nn.initializers.ones, (dim,))
    return jax.lax.stop_gradient(jnp.asarray(mean))[None], jax.lax.stop_gradient(jnp.asarray(std))[None]
