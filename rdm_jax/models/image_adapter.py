"""What makes tokens of images for an adapter's attention, from what another network gives of them.

`reads` says what that is: "vector", the projected vector of an image encoder, or "patches", its states of all patches
before the last block, for the networks of IP-Adapter (https://arxiv.org/abs/2308.06721, section 3.2); "features", those
of the denoiser itself and the caption, for Re-Imagen's conditioning (https://arxiv.org/abs/2209.14491, section 3.2).
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.models.attention import attend
from rdm_jax.models.layers import LayerNorm

HEAD_CHANNELS = 64  # of the resampler's attention


class VectorProjection(nn.Module):
    """Makes tokens of an image's vector: a linear layer, and a norm over each token.

    Attributes:
      vector_dim: the length of a vector.
      token_dim: the size of a token.
      tokens: of each image.
      dtype: what products are computed in.
    """

    vector_dim: int
    token_dim: int
    tokens: int = 4
    dtype: Any = "float32"

    reads: ClassVar[str] = "vector"

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of one vector."""
        return (jax.ShapeDtypeStruct((1, self.vector_dim), jnp.float32),)

    @nn.compact
    def __call__(self, vectors: Float[Array, "b d"]) -> Float[Array, "b n c"]:
        """Maps vectors [b, vector_dim], as the encoder projects them and not normalized, to [b, tokens, token_dim]."""
        dtype = jnp.dtype(self.dtype)
        flat = nn.Dense(self.tokens * self.token_dim, dtype=dtype, name="projection")(vectors)
        tokens = flat.reshape(len(vectors), self.tokens, self.token_dim)
        return LayerNorm(dtype=dtype, name="norm_out")(tokens).astype(jnp.float32)


class FeatureProjection(nn.Module):
    """Makes a token of each place of a U-Net's feature map, and one of the caption; no place has a position.

    Attributes:
      side: height and width of a map.
      channels: of a map.
      caption_dim: the length of a caption's vector.
      token_dim: the size of a token.
      dtype: what products are computed in.
    """

    side: int
    channels: int
    caption_dim: int
    token_dim: int
    dtype: Any = "float32"

    reads: ClassVar[str] = "features"

    @property
    def tokens(self) -> int:
        """The number of tokens of an image."""
        return self.side**2 + 1

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shapes and types of one map and one caption."""
        shapes = (1, self.side, self.side, self.channels), (1, self.caption_dim)
        return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)

    @nn.compact
    def __call__(self, maps: Float[Array, "b h w c"], captions: Float[Array, "b e"]) -> Float[Array, "b n d"]:
        """Maps feature maps [b, side, side, channels] and captions [b, caption_dim] to [b, tokens, token_dim]."""
        dtype = jnp.dtype(self.dtype)
        flat = maps.reshape(len(maps), -1, self.channels)
        tokens = [
            LayerNorm(dtype=dtype, name=f"norm_{name}")(nn.Dense(self.token_dim, dtype=dtype, name=name)(read))
            for name, read in (("map", flat), ("caption", captions[:, None]))
        ]
        return jnp.concatenate(tokens, axis=1).astype(jnp.float32)


class ReadsPatches(nn.Module):
    """The base of what reads the states of an image's patches.

    Attributes:
      patch_dim: the size of a patch's state.
      token_dim: the size of a token.
      tokens: of each image.
    """

    patch_dim: int
    token_dim: int
    tokens: int

    reads: ClassVar[str] = "patches"

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of one patch of one image."""
        return (jax.ShapeDtypeStruct((1, 1, self.patch_dim), jnp.float32),)


class PatchProjection(ReadsPatches):
    """Makes a token of each patch of an image, the class token included, by two linear layers (the full-face adapter).

    Attributes:
      dtype: what products are computed in. There are as many tokens as states.
    """

    dtype: Any = "float32"

    @nn.compact
    def __call__(self, patches: Float[Array, "b n d"]) -> Float[Array, "b n c"]:
        """Maps the encoder's states of patches [b, tokens, patch_dim], the last but one, to [b, tokens, token_dim]."""
        dtype = jnp.dtype(self.dtype)
        h = nn.gelu(nn.Dense(self.patch_dim, dtype=dtype, name="up")(patches), approximate=False)
        h = nn.Dense(self.token_dim, dtype=dtype, name="down")(h)
        return LayerNorm(dtype=dtype, name="norm_out")(h).astype(jnp.float32)


class ResamplerLayer(nn.Module):
    """Attention from the latents to the patches and themselves, and a feed-forward layer; both are residual."""

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: Float[Array, "b n c"], patches: Float[Array, "b m c"]) -> Float[Array, "b n c"]:
        """Maps latents [b, n, c] to [b, n, c], given patches [b, m, c]."""
        b, n, width = latents.shape
        inner = self.heads * HEAD_CHANNELS

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, use_bias=False, dtype=self.dtype, name=name)

        def split(flat: Array) -> Array:
            return flat.reshape(b, -1, self.heads, HEAD_CHANNELS)

        x = LayerNorm(dtype=self.dtype, name="norm_patches")(patches)
        h = LayerNorm(dtype=self.dtype, name="norm_latents")(latents)
        k, v = jnp.split(dense(2 * inner, "key_value")(jnp.concatenate([x, h], axis=1)), 2, axis=-1)
        attended = attend(split(dense(inner, "query")(h)), split(k), split(v)).reshape(b, n, inner)
        latents = latents + dense(width, "out")(attended)
        h = dense(4 * width, "up")(LayerNorm(dtype=self.dtype, name="norm")(latents))
        return latents + dense(width, "down")(nn.gelu(h, approximate=False))


class PatchResampler(ReadsPatches):
    """Makes tokens of an image's patches: learned latents attend to them (Flamingo's resampler, arXiv 2204.14198).

    Attributes:
      width: of the latents, of which there are as many as tokens.
      layers: the number of layers.
      heads: of each layer, of `HEAD_CHANNELS` channels.
      dtype: what products are computed in.
    """

    width: int
    layers: int
    heads: int
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, patches: Float[Array, "b m d"]) -> Float[Array, "b n c"]:
        """Maps the encoder's states of patches [b, m, patch_dim], the last but one, to [b, tokens, token_dim]."""
        dtype = jnp.dtype(self.dtype)
        latents = self.param("latents", nn.initializers.normal(self.width**-0.5), (self.tokens, self.width))
        x = nn.Dense(self.width, dtype=dtype, name="proj_in")(patches)
        h = jnp.broadcast_to(latents.astype(dtype)[None], (len(patches), self.tokens, self.width))
        for i in range(self.layers):
            h = ResamplerLayer(self.heads, dtype, name=f"layer_{i}")(h, x)
        h = nn.Dense(self.token_dim, dtype=dtype, name="proj_out")(h)
        return LayerNorm(dtype=dtype, name="norm_out")(h).astype(jnp.float32)
