"""Interleaved guidance of a text and its neighbours: Chen et al. 2022, Re-Imagen (https://arxiv.org/abs/2209.14491).

Each step is led away from one of the two alone: in a share of them from the neighbours without the text, which makes it
follow the text, and in the others from the text without neighbours (section 3.2).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from rdm_jax.diffusion.denoiser import Denoiser, Guide, Prediction, StepInfo
from rdm_jax.diffusion.parameterization import per_image


def interleaved(
    without_text: Denoiser,
    without_neighbors: Denoiser,
    text_scale: Float[Array, ""],
    neighbor_scale: Float[Array, ""],
    text_share: Float[Array, ""],
    times: Real[Array, " n"],
) -> Guide:
    """Returns the guide of a denoiser that sees both conditions.

    Args:
      without_text: the denoiser that sees the neighbours alone.
      without_neighbors: the one that sees the text alone.
      text_scale: how strongly steps of the first kind are led away from the former; 1 not at all.
      neighbor_scale: how strongly the others are led away from the latter.
      text_share: of the steps, in [0, 1], that follow the text, spread evenly.
      times: [n] the plan's times, by which a step knows its number.
    """

    def guide(both: Denoiser) -> Denoiser:
        """Returns the denoiser that is led away from one of the two."""

        def guided(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
            """Returns what the denoiser says, led away from what it says without the text or without neighbours."""
            number = jnp.argmin(jnp.abs(times - info.t))
            by_text = jnp.floor((number + 1) * text_share) > jnp.floor(number * text_share)
            given, no_text, no_neighbors = (each(x_t, info) for each in (both, without_text, without_neighbors))
            scale = per_image(jnp.where(by_text, text_scale, neighbor_scale), x_t.ndim)

            def led(name: str) -> Array:
                """Returns x0 or eps, extrapolated."""
                away = jnp.where(by_text, getattr(no_text, name), getattr(no_neighbors, name))
                return away + scale * (getattr(given, name) - away)

            return Prediction(x0=led("x0"), eps=led("eps"), log_variance=given.log_variance)

        return guided

    return guide
