"""What diffusion models are trained on: the mean squared error of the prediction at random times.

Ho et al. 2020, eq. 14 (https://arxiv.org/abs/2006.11239), for any parameterisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from rdm_jax.core.errors import unknown
from rdm_jax.diffusion.denoiser import Apply
from rdm_jax.diffusion.parameterization import per_image, target
from rdm_jax.diffusion.schedule import Schedule, signal_noise

GOLDEN_SECTION = np.uint32(2654435769)
"""The golden section of a full turn, where 2 ** 32 is one turn."""


def diffusion_loss(
    apply: Apply,
    x0: Float[Array, "b h w c"],
    context: Any,
    t: Int[Array, " b"],
    noise: Float[Array, "b h w c"],
    schedule: Schedule,
    kind: str,
    weights: Float[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """Returns each example's squared error, the mean over height, width and channels, in float32.

    Args:
      apply: the network with its parameters, (x_t, t, context) to its output.
      x0: the data, scaled to about unit variance.
      context: the condition, handed to `apply` as it is.
      t: each example's time, in [0, T).
      noise: standard normal.
      schedule: the schedule of T times.
      kind: what the network predicts, a name in `parameterization.PREDICTIONS`.
      weights: each example's factor (a weight of its time, or 0 for padding); 1 where not given.

    Raises:
      UserError: `kind` is not known.
    """
    alpha, sigma = signal_noise(schedule, t)
    x_t = per_image(alpha, x0.ndim) * x0 + per_image(sigma, x0.ndim) * noise
    output = apply(x_t, t, context).astype(jnp.float32)
    error = output - target(kind, x0, noise, alpha, sigma)
    loss = jnp.mean(jnp.square(error), axis=(1, 2, 3))
    return loss if weights is None else weights * loss


TIME_DENSITIES: dict[str, Callable[[Float[Array, " b"]], Float[Array, " b"]]] = {
    "uniform": lambda u: u,
    "logit_normal": lambda u: jax.nn.sigmoid(jax.scipy.special.ndtri(u)),
}
"""By name: the quantiles, on (0, 1), of the share of the schedule that a training example is noised by.

`logit_normal` has half more of its mass in the middle half, where shapes and textures are decided (Esser et al. 2024,
https://arxiv.org/abs/2403.03206, eq. 19 with m = 0, s = 1).
"""


def sample_timesteps(
    key: Key[Array, ""], batch_size: int, num_timesteps: int, density: str = "uniform"
) -> Int[Array, " b"]:
    """Returns a time in [0, num_timesteps) for each example: each of `density`, and spread evenly together.

    One random offset for the batch, and from it steps of the golden section around the circle: the loss of a batch then
    varies less than with independent times (Kingma et al. 2021, https://arxiv.org/abs/2107.00630, appendix I.1, with a
    Kronecker sequence in place of equal steps, so that example i has the same time at any batch size).

    Raises:
      UserError: `density` is not one of TIME_DENSITIES.
    """
    if density not in TIME_DENSITIES:
        raise unknown("time density", density, TIME_DENSITIES)
    turns = jax.random.bits(key, (), jnp.uint32) + jnp.arange(batch_size, dtype=jnp.uint32) * GOLDEN_SECTION
    share = ((turns >> 9).astype(jnp.float32) + 0.5) * 2.0**-23
    return (num_timesteps * TIME_DENSITIES[density](share)).astype(jnp.int32)
