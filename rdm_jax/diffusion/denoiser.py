"""The one thing that samplers, guides and hooks see: a denoiser with its condition already closed over."""

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
    """One step of a sampling run, planned ahead; a whole plan is the same thing with a leading axis of n steps.

    Attributes:
      t: integer (or continuous) time of x_t, a scalar or [b].
      t_next: the time to which the step goes, like `t`.
      coefficients: float32, scalars or [b]. Every plan has `alpha` and `sigma` of x_t, `alpha_next` and `sigma_next`
        of the step's result; a sampler adds its own.
      keys: [b] typed keys, one for each image and step; None where nothing is drawn. The sampler draws from the keys
        themselves; whoever else draws (a hook, a guide) first folds in a number of its own, or the noises are equal.
    """

    # Any, for a transformation of JAX may put shapes or axis numbers in an array's place.
    t: Any
    t_next: Any
    coefficients: dict[str, Any]
    keys: Any = None


Apply = Callable[[Float[Array, "b h w c"], Array, Any], Array]
"""A network with its parameters: (x_t [b, h, w, c], t [b], context) to its output [b, h, w, c]."""

Denoiser = Callable[[Float[Array, "b h w c"], StepInfo], Prediction]
"""x_t and the step to what is believed about x_t."""

Guide = Callable[[Denoiser], Denoiser]
"""Bends a denoiser; guides compose as functions do."""

StepHook = Callable[[Float[Array, "b h w c"], StepInfo, Prediction], Float[Array, "b h w c"]]
"""Changes the picture after a step: (x_next, the step just done, its prediction) to x_next."""


def make_denoiser(apply: Apply, context: Any, kind: str) -> Denoiser:
    """Returns the denoiser of a network under one condition.

    Args:
      apply: the network with its parameters; its output is taken to float32 whatever it computes in.
      context: the condition, an array or a tree with a leading axis b, or None; handed to `apply` as it is.
      kind: what the network predicts, a name in `parameterization.PREDICTIONS`.
    """

    def denoiser(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
        output = apply(x_t, jnp.broadcast_to(info.t, x_t.shape[:1]), context).astype(x_t.dtype)
        return read_output(output, x_t, info, kind)

    return denoiser


def read_output(output: Float[Array, "b h w o"], x_t: Float[Array, "b h w c"], info: StepInfo, kind: str) -> Prediction:
    """Returns what a network's output says of x_t.

    Args:
      output: as many channels as x_t has; or twice as many, of which the second half says where the logarithm of the
        variance lies between the plan's `log_small` (-1) and `log_large` (1), where it has these (Nichol & Dhariwal
        2021, https://arxiv.org/abs/2102.09672, eq. 15).
      x_t: what the network was shown.
      info: the step.
      kind: what the first half is, a name in `parameterization.PREDICTIONS`.
    """
    channels, c = x_t.shape[-1], info.coefficients
    said, spread = output[..., :channels], output[..., channels:]
    prediction = to_prediction(said, x_t, c["alpha"], c["sigma"], kind)
    if not spread.shape[-1] or "log_small" not in c:
        return prediction
    small, large = (per_image(c[name], x_t.ndim) for name in ("log_small", "log_large"))
    share = (spread + 1.0) / 2.0
    return dataclasses.replace(prediction, log_variance=share * large + (1.0 - share) * small)
