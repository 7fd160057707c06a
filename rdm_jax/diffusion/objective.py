"""What diffusion models are trained on: the mean error of the prediction at random times.

Ho et al. 2020, eq. 14 (https://arxiv.org/abs/2006.11239), for any parameterization. A network that predicts a variance
too has the variational bound in addition, from which only the variance learns (Nichol & Dhariwal 2021,
https://arxiv.org/abs/2102.09672, eq. 16).
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
from rdm_jax.diffusion.parameterization import per_image, target, to_prediction
from rdm_jax.diffusion.schedule import Schedule, signal_noise

ERRORS: dict[str, Callable[[Float[Array, "*s"]], Float[Array, "*s"]]] = {"squared": jnp.square, "absolute": jnp.abs}
"""By name: the errors of a difference."""

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
    error: str = "squared",
) -> Float[Array, " b"]:
    """Returns each example's error, the mean over height, width and channels, in float32.

    Where the output has twice the channels of x0, the second half predicts the variance, and the term of the
    variational bound at t is added, in bits per dimension.

    Args:
      apply: the network with its parameters, (x_t, t, context) to its output.
      x0: the data, scaled to about unit variance.
      context: the condition, passed to `apply` unchanged.
      t: each example's time, in [0, T).
      noise: standard normal.
      schedule: the schedule of T times.
      kind: what the network predicts, a name in `parameterization.PREDICTIONS`.
      weights: each example's factor (a weight of its time, or 0 for padding); 1 where not given.
      error: of the prediction, a name in `ERRORS`.

    Raises:
      UserError: `kind` is not known.
    """
    alpha, sigma = signal_noise(schedule, t)
    x_t = per_image(alpha, x0.ndim) * x0 + per_image(sigma, x0.ndim) * noise
    output = apply(x_t, t, context).astype(jnp.float32)
    mean, spread = output[..., : x0.shape[-1]], output[..., x0.shape[-1] :]
    loss = jnp.mean(ERRORS[error](mean - target(kind, x0, noise, alpha, sigma)), axis=(1, 2, 3))
    if spread.shape[-1]:
        predicted = to_prediction(jax.lax.stop_gradient(mean), x_t, alpha, sigma, kind).x0
        loss = loss + variational_bound(predicted, spread, x0, t, schedule)
    return loss if weights is None else weights * loss


def variational_bound(
    predicted: Float[Array, "b h w c"],
    spread: Float[Array, "b h w c"],
    x0: Float[Array, "b h w c"],
    t: Int[Array, " b"],
    schedule: Schedule,
) -> Float[Array, " b"]:
    """Returns each example's term of the variational bound at its time, the mean over dimensions, in bits.

    It is the KL divergence of the predicted step from the posterior, and at t = 0 the negative log-likelihood of x0 in
    256 levels from -1 to 1 (Ho et al., eq. 5 and 13).

    Args:
      predicted: the denoised estimate.
      spread: what the network predicts of the variance: -1 is the posterior's, 1 is beta (`denoiser.read_output`).
      x0: the data.
      t: each example's time.
      schedule: of the times.
    """

    def at(values: np.ndarray) -> Array:
        return per_image(jnp.asarray(values, jnp.float32)[t], x0.ndim)

    buffers = schedule.buffers()
    posterior = np.append(schedule.posterior_variance[1:2], schedule.posterior_variance[1:])
    small, large = at(np.log(posterior)), at(np.log(schedule.betas))
    log_variance = small + (spread + 1.0) / 2.0 * (large - small)
    # The means differ only by their x0: both have the same x_t.
    shift = at(buffers["posterior_mean_coef1"]) * (predicted - x0)
    divergence = 0.5 * (
        log_variance - small - 1.0 + jnp.exp(small - log_variance) + jnp.square(shift) * jnp.exp(-log_variance)
    )
    # At t = 0 the mean of the step is the predicted x0.
    likelihood = _log_likelihood(x0, predicted, 0.5 * log_variance)
    bound = jnp.where((t == 0)[:, None, None, None], -likelihood, divergence)
    return jnp.mean(bound, axis=(1, 2, 3)) / np.log(2.0)


LEVEL = 2.0 / 255.0  # the distance of two values of a pixel
LEAST_PROBABILITY = 1e-12


def _log_likelihood(
    x: Float[Array, "b h w c"], mean: Float[Array, "b h w c"], log_scale: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """Returns the logarithm of the probability of 256 levels under a normal distribution; the outer ones are open."""

    def cdf(value: Array) -> Array:
        # An approximation of the normal distribution (Page 1977), as in the original program.
        z = (value - mean) * jnp.exp(-log_scale)
        return 0.5 * (1.0 + jnp.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3)))

    def log(probability: Array) -> Array:
        return jnp.log(jnp.maximum(probability, LEAST_PROBABILITY))

    below, above = cdf(x - LEVEL / 2), cdf(x + LEVEL / 2)
    inner = jnp.where(x > 0.999, log(1.0 - below), log(above - below))
    return jnp.where(x < -0.999, log(above), inner)


TIME_DENSITIES: dict[str, Callable[[Float[Array, " b"]], Float[Array, " b"]]] = {
    "uniform": lambda u: u,
    "logit_normal": lambda u: jax.nn.sigmoid(jax.scipy.special.ndtri(u)),
}
"""By name: the quantile functions, on (0, 1), of a training example's time as a fraction of the schedule.

`logit_normal` has half more of its mass in the middle half, where shapes and textures are decided (Esser et al. 2024,
https://arxiv.org/abs/2403.03206, eq. 19 with m = 0, s = 1).
"""


def sample_timesteps(
    key: Key[Array, ""],
    batch_size: int,
    num_timesteps: int | Int[Array, ""],
    density: str = "uniform",
    interval: tuple[float, float] = (0.0, 1.0),
) -> Int[Array, " b"]:
    """Returns a time in [0, num_timesteps) for each example: each of `density`, and spread evenly together.

    One random offset for the batch, and from it steps of the golden section around the circle: the loss of a batch then
    varies less than with independent times (Kingma et al. 2021, https://arxiv.org/abs/2107.00630, appendix I.1, with a
    Kronecker sequence in place of equal steps, so that example i has the same time at any batch size).

    Args:
      key: of the offset.
      batch_size: the number of examples.
      num_timesteps: of the schedule.
      density: a name in TIME_DENSITIES.
      interval: the part of the density, as fractions of its probability, that the times are of.

    Raises:
      UserError: `density` is not one of TIME_DENSITIES.
    """
    if density not in TIME_DENSITIES:
        raise unknown("time density", density, TIME_DENSITIES)
    turns = jax.random.bits(key, (), jnp.uint32) + jnp.arange(batch_size, dtype=jnp.uint32) * GOLDEN_SECTION
    fraction = ((turns >> 9).astype(jnp.float32) + 0.5) * 2.0**-23
    if interval != (0.0, 1.0):
        fraction = interval[0] + (interval[1] - interval[0]) * fraction
    return (num_timesteps * TIME_DENSITIES[density](fraction)).astype(jnp.int32)


def by_bands(values: Float[Array, " b"], t: Int[Array, " b"], num_timesteps: int, bands: int) -> Float[Array, " bands"]:
    """Returns the mean of each example's value within equal bands of time, 0 where a band has no example.

    Args:
      values: [b] of the examples.
      t: [b] their times in [0, num_timesteps).
      num_timesteps: the length of the schedule.
      bands: the number of bands.
    """
    members = jax.nn.one_hot(t * bands // num_timesteps, bands, axis=0)
    return members @ values / jnp.maximum(members.sum(axis=1), 1.0)


MIN_SNR = 5.0
"""The signal-to-noise ratio from which on `min_snr` weighs the error of x0 equally (the paper's gamma)."""


def _min_snr(snr: Float[Array, " b"], kind: str) -> Float[Array, " b"]:
    # How many squared errors of the prediction one of x0 is (`parameterization.PREDICTIONS`, solved for x0).
    per_x0 = {
        "eps": snr,
        "v": snr + 1.0,
        "x0": jnp.ones_like(snr),
        "linear_velocity": jnp.square(jnp.sqrt(snr) + 1.0),
        "gvp_velocity": (snr + 1.0) * (np.pi / 2) ** 2,
    }
    return jnp.minimum(snr, MIN_SNR) / per_x0[kind]


TIME_WEIGHTS: dict[str, Callable[[Float[Array, " b"], str], Float[Array, " b"]]] = {
    "uniform": lambda snr, kind: jnp.ones_like(snr),
    "min_snr": _min_snr,
}
"""By name: each time's factor, from its signal-to-noise ratio and the kind of the prediction.

`min_snr` weighs the error of x0 by min(SNR, 5) (Hang et al. 2023, https://arxiv.org/abs/2303.09556, section 3.4).
"""


def time_weights(name: str, schedule: Schedule, t: Int[Array, " b"], kind: str) -> Float[Array, " b"]:
    """Returns each example's factor by its time.

    Args:
      name: one of TIME_WEIGHTS.
      schedule: the schedule that the times are of.
      t: [b] times in [0, T).
      kind: what the network predicts, a name in `parameterization.PREDICTIONS`.

    Raises:
      UserError: `name` is not one of TIME_WEIGHTS.
    """
    if name not in TIME_WEIGHTS:
        raise unknown("time weight", name, TIME_WEIGHTS)
    alpha, sigma = signal_noise(schedule, t)
    return TIME_WEIGHTS[name](jnp.square(alpha / sigma), kind)
