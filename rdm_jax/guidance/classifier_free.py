"""Classifier-free guidance: Ho & Salimans 2022 (https://arxiv.org/abs/2207.12598).

The scale is CompVis's: 0 is unconditional, 1 conditional, above 1 guided; w + 1 where w is the paper's (eq. 6). Several
conditions have a scale each (Liu et al. 2022, https://arxiv.org/abs/2206.01714, eq. 11), and guidance rescale reduces
the contrast that guidance adds (Lin et al. 2023, https://arxiv.org/abs/2305.08891, eq. 14-16).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Apply, Denoiser, Guide, Prediction, StepInfo, read_output
from rdm_jax.diffusion.parameterization import per_image


def classifier_free(unconditional: Denoiser, scale: Float[Array, ""] | Float[Array, " b"]) -> Guide:
    """Returns the guide eps = eps_u + scale (eps_c - eps_u) and its x0.

    Args:
      unconditional: the denoiser under the null condition.
      scale: one for all, or one for each image; finite, may be traced.
    """

    def guide(conditional: Denoiser) -> Denoiser:
        """Returns the guided denoiser."""

        def denoiser(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
            """Returns the two predictions, extrapolated."""
            without, given = unconditional(x_t, info), conditional(x_t, info)
            # x0 is affine in eps and the weights sum to 1, so x0 is extrapolated in the same way: x_t = alpha x0 +
            # sigma eps still holds, without a division by alpha, which may be near 0.
            return Prediction(
                x0=_extrapolate(without.x0, given.x0, scale),
                eps=_extrapolate(without.eps, given.eps, scale),
                log_variance=given.log_variance,
            )

        return denoiser

    return guide


def classifier_free_denoiser(
    apply: Apply,
    context: Any,
    null_context: Any,
    scale: Float[Array, ""] | Float[Array, " b"],
    kind: str,
    *,
    also: Sequence[tuple[Any, Any]] = (),
    rescale: Float[Array, ""] | None = None,
) -> Denoiser:
    """Returns the guided denoiser that evaluates the network once a step, on a batch of [null, condition, also ...].

    Without `also` and `rescale` it equals
    `classifier_free(make_denoiser(apply, null_context, kind), scale)(make_denoiser(apply, context, kind))`;
    one evaluation of twice the batch is faster on accelerators, at the cost of its memory.

    Args:
      apply: the network with its parameters.
      context: the condition, an array or a tree of arrays with a leading axis b.
      null_context: the null condition: the same tree, each array of a shape that broadcasts to its counterpart in
        `context`.
      scale: one for all, or one for each image; finite, may be traced.
      kind: what the network predicts, a name in `parameterization.PREDICTIONS`.
      also: further conditions, the same trees, with their scales: each adds scale (output - null output).
      rescale: guidance rescale phi in [0, 1]: the standard deviation of the output is interpolated towards that under
        `context`; None omits it.
    """
    scales = [scale, *(one for _, one in also)]

    def stacked(null: Array, *given: Array) -> Array:
        """Returns one array of a tree for the whole batch."""
        shape = given[0].shape
        return jnp.concatenate([jnp.broadcast_to(each, shape).astype(given[0].dtype) for each in (null, *given)])

    def denoiser(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
        """Returns the combined prediction under all conditions."""
        t = jnp.broadcast_to(info.t, x_t.shape[:1])
        contexts = jax.tree.map(stacked, null_context, context, *(one for one, _ in also))
        copies = 2 + len(also)
        output = apply(jnp.concatenate([x_t] * copies), jnp.concatenate([t] * copies), contexts).astype(x_t.dtype)
        without, given, *others = jnp.split(output, copies)
        # A predicted variance is that under the condition, without guidance.
        channels = x_t.shape[-1]
        null, conditional = without[..., :channels], given[..., :channels]
        guided = null
        for mean, one in zip([conditional, *(other[..., :channels] for other in others)], scales, strict=True):
            guided = guided + per_image(jnp.asarray(one), x_t.ndim) * (mean - null)
        if rescale is not None:
            guided = rescale_contrast(guided, conditional, rescale)
        return read_output(jnp.concatenate([guided, given[..., channels:]], axis=-1), x_t, info, kind)

    return denoiser


def rescale_contrast(
    guided: Float[Array, "b h w c"], given: Float[Array, "b h w c"], phi: Float[Array, ""]
) -> Float[Array, "b h w c"]:
    """Returns (1 - phi) guided + phi (guided with the standard deviation of `given`)."""
    axes = tuple(range(1, given.ndim))
    wanted, has = (jnp.std(each, axis=axes, keepdims=True) for each in (given, guided))
    return guided * (1.0 + phi * (wanted / jnp.maximum(has, 1e-12) - 1.0))


def _extrapolate(without: Array, given: Array, scale: Array) -> Array:
    return without + per_image(scale, given.ndim) * (given - without)
