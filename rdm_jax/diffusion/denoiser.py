"""The interface of samplers, guides and hooks: a denoiser, which is a network closed over its condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.diffusion.parameterization import Prediction, per_image, to_prediction

__all__ = ["Apply", "Denoiser", "Guide", "Prediction", "StepHook", "StepInfo", "make_denoiser", "read_output"]


@flax.struct.dataclass
class StepInfo:
    """One step of a sampling run, planned ahead; a whole plan has a leading axis of n steps.

    Attributes:
      t: integer (or continuous) time of x_t, a scalar or [b].
      t_next: the time to which the step goes, like `t`.
      coefficients: float32, scalars or [b]. Every plan has `alpha` and `sigma` of x_t, `alpha_next` and `sigma_next`
        of the step's result; a sampler adds its own.
      keys: [b] typed keys, one for each image and step; None where no noise is needed. The sampler uses the keys
        themselves; a hook or a guide that samples noise first folds in a number of its own, or the noises are equal.
    """

    # Any, because transformations of JAX may put shapes or axis numbers in an array's place.
    t: Any
    t_next: Any
    coefficients: dict[str, Any]
    keys: Any = None


Apply = Callable[[Float[Array, "b h w c"], Array, Any], Array]
"""A network with its parameters: (x_t [b, h, w, c], t [b], context) to its output [b, h, w, c]."""

Denoiser = Callable[[Float[Array, "b h w c"], StepInfo], Prediction]
"""x_t and the step to the prediction."""

Guide = Callable[[Denoiser], Denoiser]
"""Wraps a denoiser; guides compose as functions do."""

StepHook = Callable[[Float[Array, "b h w c"], StepInfo, Prediction], Float[Array, "b h w c"]]
"""Changes the image after a step: (x_next, the step just done, its prediction) to x_next."""


def make_denoiser(apply: Apply, context: Any, kind: str) -> Denoiser:
    """Returns the denoiser of a network under one condition.

    Args:
      apply: the network with its parameters; its output is converted to the type of x_t.
      context: the condition, an array or a tree with a leading axis b, or None; passed to `apply` unchanged.
      kind: what the network predicts, a name in `parameterization.PREDICTIONS`.
    """

    def denoiser(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
        output = apply(x_t, jnp.broadcast_to(info.t, x_t.shape[:1]), context).astype(x_t.dtype)
        return read_output(output, x_t, info, kind)

    return denoiser


def read_output(output: Float[Array, "b h w o"], x_t: Float[Array, "b h w c"], info: StepInfo, kind: str) -> Prediction:
    """Returns the prediction in a network's output.

    Args:
      output: as many channels as x_t has; or twice as many, of which the second half interpolates the logarithm of the
        variance between the plan's `log_small` (-1) and `log_large` (1), if it has these (Nichol & Dhariwal 2021,
        https://arxiv.org/abs/2102.09672, eq. 15).
      x_t: the network's input.
      info: the step.
      kind: the parameterization of the first half, a name in `parameterization.PREDICTIONS`.
    """
    channels, c = x_t.shape[-1], info.coefficients
    mean, spread = output[..., :channels], output[..., channels:]
    prediction = to_prediction(mean, x_t, c["alpha"], c["sigma"], kind)
    if not spread.shape[-1] or "log_small" not in c:
        return prediction
    small, large = (per_image(c[name], x_t.ndim) for name in ("log_small", "log_large"))
    fraction = (spread + 1.0) / 2.0
    return dataclasses.replace(prediction, log_variance=fraction * large + (1.0 - fraction) * small)
