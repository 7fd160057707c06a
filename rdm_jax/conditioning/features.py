"""The U-Net's own features of clean images, a condition of neighbors (Re-Imagen, arXiv 2209.14491)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.models.condition import Condition
from rdm_jax.models.image_adapter import FeatureProjection

MIDDLE = "mid_2_res"  # the U-Net's block in the middle, after its attention


def middle_features(
    unet: Any, params: Any, latents: Float[Array, "b h w c"], tokens: Float[Array, "b n d"] | None = None
) -> Float[Array, "b h2 w2 c2"]:
    """Returns the U-Net's features in the middle at noise level zero, in float32.

    Args:
      unet: the denoiser.
      params: its parameters, without the "params" level.
      latents: of the images, as the denoiser sees them.
      tokens: the context of each image, as its caption's; none if None.
    """
    context = jnp.zeros((len(latents), 0, unet.context_dim)) if tokens is None else tokens
    _, kept = unet.apply(
        {"params": params},
        latents,
        jnp.zeros(len(latents)),
        Condition(context),
        capture_intermediates=lambda module, _: module.name == MIDDLE,
        mutable=["intermediates"],
    )
    return kept["intermediates"][MIDDLE]["__call__"][0].astype(jnp.float32)


def feature_tokens(
    unet: Any,
    projection: FeatureProjection,
    params: Mapping[str, Any],
    latents: Float[Array, "b h w c"],
    captions: Float[Array, "b e"],
) -> Float[Array, "b n d"]:
    """Returns the tokens of neighbors: the U-Net's features of each image under its own caption, and the caption.

    Args:
      unet: the denoiser.
      projection: of its features.
      params: {part: parameters} of both, "denoiser" and "image_adapter".
      latents: of the images.
      captions: vectors of their captions, as the U-Net takes that of a prompt.
    """
    maps = middle_features(unet, params["denoiser"], latents, captions[:, None])
    tokens: Any = projection.apply({"params": params["image_adapter"]}, maps, captions)
    return tokens
