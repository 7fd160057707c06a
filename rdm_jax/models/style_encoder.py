"""The encoder of style neighbors: the style of an image, as tokens for cross-attention and as one vector.

A pooled vector of a retrieval encoder says what an image shows; a style is in its strokes. Re-Imagen
(https://arxiv.org/abs/2209.14491, section 3.2) takes a neighbor's tokens from the denoiser's own features; these are
from a network of their own, which is trained with the denoiser, and to tell styles apart.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError
from rdm_jax.models.layers import Downsample, GroupNorm, ResBlock

EPSILON = 1e-5


class StyleEncoder(nn.Module):
    """A convolutional network with one level for each of `widths`, each half the size of the one before.

    The first convolution has stride 2. Tokens are the positions of the last level, with learned positions, and one
    of the statistics of all levels: the mean and the standard deviation of each channel over the positions, which
    describe a texture (Huang & Belongie 2017, https://arxiv.org/abs/1703.06868).

    Attributes:
      image_size: height and width of an image.
      token_dim: the size of a token.
      widths: channels of each level, multiples of `num_groups`.
      blocks: residual blocks of each level.
      num_groups: of every norm.
      vector_dim: the size of the vector.
      color_bins: of the histogram of each color channel that a further token describes; 0 for no such token.
      dtype: what products are computed in; parameters stay in float32.
    """

    image_size: int
    token_dim: int
    widths: tuple[int, ...] = (32, 64, 128, 192)
    blocks: int = 1
    num_groups: int = 16
    vector_dim: int = 128
    color_bins: int = 0
    dtype: Any = "float32"

    @property
    def tokens(self) -> int:
        """The number of tokens of an image."""
        return self.side**2 + 1 + bool(self.color_bins)

    @property
    def side(self) -> int:
        """The height and the width of the last level."""
        return self.image_size // 2 ** len(self.widths)

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of the smallest input: one image."""
        return (jax.ShapeDtypeStruct((1, self.image_size, self.image_size, 3), jnp.float32),)

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"]) -> tuple[Float[Array, "b n d"], Float[Array, "b v"]]:
        """Returns tokens [b, tokens, token_dim] and vectors [b, vector_dim] of length 1, both in float32.

        Args:
          images: [b, image_size, image_size, 3] in [-1, 1].

        Raises:
          UserError: the images have another size.
        """
        if images.shape[1:3] != (self.image_size, self.image_size):
            size = "x".join(map(str, images.shape[1:3]))
            raise UserError(f"a style neighbor has {size} pixels, and the encoder takes {self.image_size} on each side")
        dtype = jnp.dtype(self.dtype)
        h = nn.Conv(self.widths[0], (4, 4), (2, 2), ((1, 1), (1, 1)), dtype=dtype, name="stem")(images.astype(dtype))
        statistics = []
        for level, width in enumerate(self.widths):
            if level:
                h = Downsample((1, 1), dtype, name=f"down_{level}")(h)
            for block in range(self.blocks):
                h = ResBlock(width, self.num_groups, EPSILON, dtype=dtype, name=f"level_{level}_{block}")(h)
            statistics.append(_statistics(h))
        pooled = jnp.concatenate(statistics, axis=-1)
        h = nn.silu(GroupNorm(self.num_groups, EPSILON, dtype, name="norm")(h)).reshape(len(h), -1, self.widths[-1])
        positions = self.param("positions", nn.initializers.normal(0.02), (self.side**2, self.token_dim))
        local = nn.Dense(self.token_dim, dtype=dtype, name="local")(h).astype(jnp.float32) + positions[None]
        hidden = nn.silu(nn.Dense(2 * self.vector_dim, name="pooled")(pooled))
        texture = nn.Dense(self.token_dim, name="texture")(hidden)
        vector = nn.Dense(self.vector_dim, name="vector")(hidden)
        vector = vector / jnp.maximum(jnp.linalg.norm(vector, axis=-1, keepdims=True), EPSILON)
        tokens = [texture[:, None], local]
        if self.color_bins:
            hidden = nn.silu(nn.Dense(2 * self.token_dim, name="histogram")(color_histograms(images, self.color_bins)))
            tokens.append(nn.Dense(self.token_dim, name="colors")(hidden)[:, None])
        return jnp.concatenate(tokens, axis=1), vector


def color_histograms(images: Float[Array, "b h w 3"], bins: int) -> Float[Array, "b n"]:
    """Returns the square roots of how much of an image, and of its border, has each color.

    What convolutions learn of colors only in time is plain here. A color between the centers of bins counts for both in
    parts (trilinear interpolation), so that small changes of it show.

    Args:
      images: in [-1, 1].
      bins: of each channel, 2 or more, whose centers are evenly spread over [-1, 1].

    Returns:
      n = 2 * bins ** 3 values; the squares of each half add to 1.
    """
    places = (jnp.clip(images.astype(jnp.float32), -1.0, 1.0) + 1.0) * (0.5 * (bins - 1))
    weights = jax.nn.relu(1.0 - jnp.abs(places[..., None] - jnp.arange(bins).reshape(1, 1, 1, 1, -1)))
    border = jnp.concatenate([weights[:, 0], weights[:, -1], weights[:, 1:-1, 0], weights[:, 1:-1, -1]], axis=1)
    whole = weights.reshape(len(images), -1, 3, bins)
    histograms = [_joint(pixels).reshape(len(images), -1) for pixels in (whole, border)]
    # The slope of a root at 0 has no bound.
    return jnp.sqrt(jnp.concatenate(histograms, axis=-1) + EPSILON)


def _joint(weights: Float[Array, "b p 3 n"]) -> Float[Array, "b n n n"]:
    """Returns the mean over pixels of the products of what their channels count for each bin."""
    red, green, blue = (weights[:, :, channel] for channel in range(3))
    pairs = red[..., :, None] * green[..., None, :]
    return jnp.einsum("bprg,bpx->brgx", pairs, blue) / weights.shape[1]


def _statistics(h: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
    """Returns the mean and the standard deviation of each channel over the positions, in float32."""
    h = h.astype(jnp.float32)
    mean = h.mean(axis=(1, 2))
    variance = jnp.mean(jnp.square(h - mean[:, None, None]), axis=(1, 2))
    return jnp.concatenate([mean, jnp.sqrt(variance + EPSILON)], axis=-1)
