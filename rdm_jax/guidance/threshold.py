"""Thresholding: the predicted x0 is kept within bounds (Saharia et al. 2022, https://arxiv.org/abs/2205.11487).

Strong guidance drives x0 beyond the range of the data. Static thresholding clips it; dynamic thresholding (section 2.3)
rescales each image whose quantile of absolute values exceeds the bound, so that it does not saturate. The bound of
pixels is 1; that of an autoencoder's normalized latents is about 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.core.checks import part, positive
from rdm_jax.diffusion.denoiser import Denoiser, Guide, Prediction, StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.guidance.base import GuidanceMethod, GuideContext, GuideEffects, Networks
from rdm_jax.guidance.common import with_x0


def static_thresholding(bound: Float[Array, ""]) -> Guide:
    """Returns the guide that clips x0 to [-bound, bound]."""

    def limit(x0: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns x0, clipped."""
        return jnp.clip(x0, -bound, bound)

    return _limited(limit)


def dynamic_thresholding(quantile: Float[Array, ""], bound: Float[Array, ""]) -> Guide:
    """Returns the guide that clips the x0 of each image to [-s, s] and divides it by s / bound.

    Args:
      quantile: s is this quantile of the image's absolute values, 0.995 in the paper, and at least the bound.
      bound: no value exceeds it afterwards.
    """

    def limit(x0: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns x0, each image clipped at its own s and rescaled."""
        values = jnp.abs(x0).reshape(len(x0), -1)
        largest = per_image(jnp.maximum(jnp.quantile(values, quantile, axis=1), bound), x0.ndim)
        return jnp.clip(x0, -largest, largest) * (bound / largest)

    return _limited(limit)


def _limited(limit: Callable[[Array], Array]) -> Guide:
    """Returns the guide that applies a limit to x0."""

    def guide(denoiser: Denoiser) -> Denoiser:
        """Returns the denoiser whose x0 is within bounds."""

        def limited(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
            """Returns the prediction with the limit applied to x0."""
            prediction = denoiser(x_t, info)
            return with_x0(prediction, limit(prediction.x0), x_t, info)

        return limited

    return guide


@dataclasses.dataclass(frozen=True)
class Threshold(GuidanceMethod):
    """Clips the predicted x0 to [-bound, bound]."""

    bound: float = 3.0
    source: ClassVar[str] = "arXiv 2205.11487, section 2.3 (static)"

    def inputs(self, context: GuideContext) -> dict[str, Any]:
        """Returns the bound."""
        return {"bound": np.float32(positive("bound", self.bound))}

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the guide."""
        return GuideEffects(guides=(static_thresholding(inputs["bound"]),))


@dataclasses.dataclass(frozen=True)
class DynamicThreshold(GuidanceMethod):
    """Rescales the predicted x0 of an image whose quantile of absolute values exceeds the bound."""

    quantile: float = 0.995
    bound: float = 3.0
    source: ClassVar[str] = "arXiv 2205.11487, section 2.3 (dynamic)"

    def inputs(self, context: GuideContext) -> dict[str, Any]:
        """Returns quantile and bound."""
        return {
            "quantile": np.float32(part("quantile", self.quantile)),
            "bound": np.float32(positive("bound", self.bound)),
        }

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the guide."""
        return GuideEffects(guides=(dynamic_thresholding(inputs["quantile"], inputs["bound"]),))
