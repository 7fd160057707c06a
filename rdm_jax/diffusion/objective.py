"""What diffusion models are trained on: the mean squared error of the prediction at random times.

Ho et al. 2020, eq. 14 (https://arxiv.org/abs/2006.11239), for any parameterisation.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rdm_jax.diffusion.denoiser import Apply
from rdm_jax.diffusion.parameterization import per_image, target
from rdm_jax.diffusion.schedule import Schedule, signal_noise


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


def sample_timesteps(key: Key[Array, ""], batch_size: int, num_timesteps: int) -> Int[Array, " b"]:
    """Returns a uniform time in [0, num_timesteps) for each example, each from its own key `fold_in(key, i)`.

    Example i has the same time at any batch size.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(batch_size))
    return jax.vmap(lambda k: jax.random.randint(k, (), 0, num_timesteps, jnp.int32))(keys)
