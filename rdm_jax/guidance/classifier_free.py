"""Classifier-free guidance: Ho & Salimans 2022 (https://arxiv.org/abs/2207.12598), away from the unconditional.

The scale is CompVis's: 0 is unconditional, 1 conditional, above 1 guided; w + 1 where w is the paper's (eq. 6).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Apply, Denoiser, Guide, Prediction, StepInfo, read_output
from rdm_jax.diffusion.parameterization import per_image


def classifier_free(unconditional: Denoiser, scale: Float[Array, ""] | Float[Array, " b"]) -> Guide:
    """Returns the guide eps = eps_u + scale (eps_c - eps_u), and the x0 that goes with it.

    Args:
      unconditional: the denoiser under the null condition.
      scale: one for all, or one for each image; finite, may be traced.
    """

    def guide(conditional: Denoiser) -> Denoiser:
        def denoiser(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
            without, given = unconditional(x_t, info), conditional(x_t, info)
            # x0 is affine in eps and the weights add up to 1, so x0 is mixed alike: x_t = alpha x0 + sigma eps still
            # holds, and nothing is divided by an alpha that may be near 0.
            return Prediction(
                x0=_extrapolate(without.x0, given.x0, scale),
                eps=_extrapolate(without.eps, given.eps, scale),
                log_variance=given.log_variance,
            )

        return denoiser

    return guide


def classifier_free_denoiser(
    apply: Apply, context: Any, null_context: Any, scale: Float[Array, ""] | Float[Array, " b"], kind: str
) -> Denoiser:
    """Returns the guided denoiser that asks the network once a step, with a batch of [null, condition].

    It equals `classifier_free(make_denoiser(apply, null_context, kind), scale)(make_denoiser(apply, context, kind))`;
    one call of twice the batch is what accelerators do faster, at the cost of its memory.

    Args:
      apply: the network with its parameters.
      context: the condition, an array or a tree of arrays with a leading axis b.
      null_context: what stands for no condition: the same tree, each array of a shape that broadcasts to its partner's.
      scale: one for all, or one for each image; finite, may be traced.
      kind: what the network predicts, a name in `parameterization.PREDICTIONS`.
    """

    def both(null: Array, given: Array) -> Array:
        return jnp.concatenate([jnp.broadcast_to(null, given.shape).astype(given.dtype), given])

    def denoiser(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
        t = jnp.broadcast_to(info.t, x_t.shape[:1])
        contexts = jax.tree.map(both, null_context, context)
        output = apply(jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t]), contexts).astype(x_t.dtype)
        without, given = jnp.split(output, 2)
        # A network that says the variance too says it under the condition: nothing is led away from there.
        channels = x_t.shape[-1]
        guided = _extrapolate(without[..., :channels], given[..., :channels], scale)
        return read_output(jnp.concatenate([guided, given[..., channels:]], axis=-1), x_t, info, kind)

    return denoiser


def _extrapolate(without: Array, given: Array, scale: Array) -> Array:
    return without + per_image(scale, given.ndim) * (given - without)
