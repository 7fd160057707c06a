"""Thresholding: what is believed of x0 is kept within bounds (Saharia et al. 2022, https://arxiv.org/abs/2205.11487).

Strong guidance drives x0 beyond what any picture has. The static kind cuts it off; the dynamic one (section 2.3)
shrinks each picture whose values' quantile lies beyond the bound, so that it does not saturate. Pixels have the bound
1; the latents of an autoencoder, normalised, one of about 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import Denoiser, Guide, Prediction, StepInfo
from rdm_jax.diffusion.parameterization import per_image


def static_thresholding(bound: Float[Array, ""]) -> Guide:
    """Returns the guide that cuts x0 off at -bound and bound."""

    def limit(x0: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns x0, cut off."""
        return jnp.clip(x0, -bound, bound)

    return _limited(limit)


def dynamic_thresholding(quantile: Float[Array, ""], bound: Float[Array, ""]) -> Guide:
    """Returns the guide that cuts each picture's x0 off at s and divides it by s / bound.

    Args:
      quantile: of the absolute values of a picture that s is, 0.995 in the paper; s is at least the bound.
      bound: what no value exceeds afterwards.
    """

    def limit(x0: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns x0, each picture cut off at its own s and shrunk."""
        values = jnp.abs(x0).reshape(len(x0), -1)
        largest = per_image(jnp.maximum(jnp.quantile(values, quantile, axis=1), bound), x0.ndim)
        return jnp.clip(x0, -largest, largest) * (bound / largest)

    return _limited(limit)


def _limited(limit: Callable[[Array], Array]) -> Guide:
    """Returns the guide that applies a limit to x0."""

    def guide(denoiser: Denoiser) -> Denoiser:
        """Returns the denoiser whose x0 is within bounds."""

        def limited(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
            """Returns what the denoiser says, with the limit applied to x0."""
            prediction = denoiser(x_t, info)
            return with_x0(prediction, limit(prediction.x0), x_t, info)

        return limited

    return guide


def with_x0(
    prediction: Prediction, x0: Float[Array, "b h w c"], x_t: Float[Array, "b h w c"], info: StepInfo
) -> Prediction:
    """Returns the prediction with another x0, and the eps that goes with it: x_t = alpha x0 + sigma eps still holds."""
    alpha, sigma = (per_image(info.coefficients[name], x_t.ndim) for name in ("alpha", "sigma"))
    # The change alone is divided by sigma: where nothing changes, eps stays to the last bit.
    return dataclasses.replace(prediction, x0=x0, eps=prediction.eps - alpha / sigma * (x0 - prediction.x0))
