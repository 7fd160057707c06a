"""What a network predicts (eps, v, x0 or the velocity of a path), and x0 and eps from any of them.

With x_t = alpha x_0 + sigma eps, alpha^2 + sigma^2 = 1, any one of these and x_t give the others. v is that of
Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", appendix D
(https://arxiv.org/abs/2202.00512); the velocities are those of `interpolants.PATHS`, by the path's own time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
from jaxtyping import Array, Float

from rdm_jax.core.errors import unknown


@flax.struct.dataclass
class Prediction:
    """The prediction from x_t = alpha x0 + sigma eps.

    Attributes:
      x0: [b, h, w, c] the denoised estimate.
      eps: [b, h, w, c] the noise.
      log_variance: [b, h, w, c] the logarithm of the reverse step's variance, of networks that predict it; else None.
    """

    # Any, because transformations of JAX may put shapes or None in an array's place; the functions below check arrays.
    x0: Any
    eps: Any
    log_variance: Any = None


class _Kind(NamedTuple):
    """A parameterization: (output, x_t, alpha, sigma) to (x0, eps), and (x0, eps, alpha, sigma) to the output."""

    split: Callable[..., tuple[Array, Array]]
    target: Callable[..., Array]


def _split_eps(eps: Array, x_t: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    return (x_t - sigma * eps) / alpha, eps


def _split_v(v: Array, x_t: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    # The rotation back from (x_t, v) to (x0, eps): no division, so exact at alpha = 0 and at sigma = 0 too.
    return alpha * x_t - sigma * v, sigma * x_t + alpha * v


def _split_x0(x0: Array, x_t: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    return x0, (x_t - alpha * x0) / sigma


def _split_linear_velocity(u: Array, x_t: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    # u = x0 - eps has no factor of time, and alpha + sigma is never 0.
    return (x_t + sigma * u) / (alpha + sigma), (x_t - alpha * u) / (alpha + sigma)


# The path "gvp" is the circle itself, from noise to the image in a time of 1: its velocity is -pi/2 times v.
_GVP_SPEED = math.pi / 2


PREDICTIONS: dict[str, _Kind] = {
    "eps": _Kind(_split_eps, lambda x0, eps, alpha, sigma: eps),
    "v": _Kind(_split_v, lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0),
    "x0": _Kind(_split_x0, lambda x0, eps, alpha, sigma: x0),
    "linear_velocity": _Kind(_split_linear_velocity, lambda x0, eps, alpha, sigma: x0 - eps),
    "gvp_velocity": _Kind(
        lambda u, x_t, alpha, sigma: _split_v(-u / _GVP_SPEED, x_t, alpha, sigma),
        lambda x0, eps, alpha, sigma: _GVP_SPEED * (sigma * x0 - alpha * eps),
    ),
}


def per_image(value: Float[Array, ""] | Float[Array, " b"], ndim: int) -> Float[Array, " ..."]:
    """Returns a scalar as it is, and a [b] vector as [b, 1, ...] of `ndim` axes, to be multiplied with a batch."""
    return value if value.ndim == 0 else value.reshape(value.shape + (1,) * (ndim - 1))


def to_prediction(
    output: Float[Array, "b h w c"],
    x_t: Float[Array, "b h w c"],
    alpha: Float[Array, ""] | Float[Array, " b"],
    sigma: Float[Array, ""] | Float[Array, " b"],
    kind: str,
) -> Prediction:
    """Returns x0 and eps from a network's output.

    Args:
      output: of the network, of the given kind.
      x_t: its input.
      alpha: the signal's factor in x_t, in (0, 1]; "v" and "x0" take 0 too.
      sigma: the noise's factor in x_t, in (0, 1]; "v" and "eps" take 0 too.
      kind: a name in `PREDICTIONS`.

    Raises:
      UserError: `kind` is not known.
    """
    x0, eps = _kind(kind).split(output, x_t, per_image(alpha, x_t.ndim), per_image(sigma, x_t.ndim))
    return Prediction(x0=x0, eps=eps)


def target(
    kind: str,
    x0: Float[Array, "b h w c"],
    noise: Float[Array, "b h w c"],
    alpha: Float[Array, ""] | Float[Array, " b"],
    sigma: Float[Array, ""] | Float[Array, " b"],
) -> Float[Array, "b h w c"]:
    """Returns the training target: the output of a perfect network of the given kind for alpha x0 + sigma noise.

    Raises:
      UserError: `kind` is not known.
    """
    return _kind(kind).target(x0, noise, per_image(alpha, x0.ndim), per_image(sigma, x0.ndim))


def _kind(name: str) -> _Kind:
    if name not in PREDICTIONS:
        raise unknown("prediction", name, PREDICTIONS)
    return PREDICTIONS[name]
