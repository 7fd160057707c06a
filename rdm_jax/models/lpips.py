"""LPIPS: the perceptual distance of two images, by a VGG-16 and weights that were fitted to human ratings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.models.layers import Conv3x3

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of VGG-16's convolutions (https://arxiv.org/abs/1409.1556, configuration D), with pooling between stages."""
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1], as in VGG-16's training
EPSILON = 1e-10


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, version 0.1 with VGG (https://arxiv.org/abs/1801.03924, eq. 1)."""

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and types of the smallest inputs: two images."""
        return (jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32),) * 2

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], y: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        """Returns the distances [b], 0 for equal images, of images [b, h, w, 3] in [-1, 1], h and w at least 16."""
        h = jnp.concatenate([x, y]) - jnp.asarray(MEAN)[None, None, None]
        h = h / jnp.asarray(STD)[None, None, None]
        distance = jnp.zeros(len(x))
        for stage, widths in enumerate(STAGES):
            if stage:
                h = nn.max_pool(h, (2, 2), (2, 2))
            for layer, channels in enumerate(widths):
                h = nn.relu(Conv3x3(channels, name=f"conv_{stage}_{layer}")(h))
            unit = h / (jnp.sqrt(jnp.sum(h**2, axis=-1, keepdims=True)) + EPSILON)
            squares = jnp.square(unit[: len(x)] - unit[len(x) :])
            distance += nn.Dense(1, use_bias=False, name=f"weights_{stage}")(squares).mean(axis=(1, 2, 3))
        return distance
