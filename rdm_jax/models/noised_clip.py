"""The CLIP of noisy images that guides GLIDE (Nichol et al. 2021, https://arxiv.org/abs/2112.10741, section 2.4)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Real

from rdm_jax.core.errors import UserError
from rdm_jax.models.clip import Block
from rdm_jax.models.layers import LayerNorm
from rdm_jax.models.token_rows import TokenRows

MEAN, STD = (122.77, 116.75, 104.09), (68.50, 66.63, 70.32)  # of the training images, in [0, 255]


class NoisedImageTower(nn.Module):
    """A vision transformer whose first token is a learned vector of the time, and is read out."""

    embed_dim: int
    width: int
    layers: int
    heads: int
    patch_size: int
    image_size: int
    timesteps: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], t: Real[Array, " b"]) -> Float[Array, "b d"]:
        """Maps x_t [b, image_size, image_size, 3], about [-1, 1], and times [b] to [b, embed_dim]."""
        dtype, side = jnp.dtype(self.dtype), self.patch_size
        normal = nn.initializers.normal(self.width**-0.5)
        mean, std = (np.asarray(one, np.float32)[None, None, None] for one in (MEAN, STD))
        pixels = ((x + 1.0) * 127.5 - mean) / std
        conv = nn.Conv(
            self.width, (side, side), strides=side, padding="VALID", use_bias=False, dtype=dtype, name="patches"
        )
        patches = conv(pixels).reshape(x.shape[0], -1, self.width)
        times = self.param("times", normal, (self.timesteps, self.width)).astype(dtype)
        first = times[jnp.round(t).astype(jnp.int32)]
        tokens = jnp.concatenate([first[:, None], patches], axis=1)
        tokens = tokens + self.param("positions", normal, tokens.shape[1:]).astype(dtype)[None]
        h = LayerNorm(dtype=dtype, name="norm_in")(tokens)
        for i in range(self.layers):
            h = Block(self.heads, self.layers, "gelu", dtype=dtype, name=f"block_{i}")(h)
        h = LayerNorm(dtype=dtype, name="norm_out")(h[:, 0])
        return nn.Dense(self.embed_dim, use_bias=False, dtype=dtype, kernel_init=normal, name="projection")(h)


class NoisedTextTower(TokenRows):
    """A causal text transformer, read out at the last token of a text."""

    embed_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"], lengths: Int[Array, " b"]) -> Float[Array, "b d"]:
        """Maps token ids [b, context_length] and the number of tokens in each text to [b, embed_dim]."""
        dtype = jnp.dtype(self.dtype)
        x = self.embedded(tokens, dtype)
        for i in range(self.layers):
            x = Block(self.heads, self.layers, "gelu", causal=True, dtype=dtype, name=f"block_{i}")(x)
        x = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)[:, 0]
        x = LayerNorm(dtype=dtype, name="norm_out")(x)
        init = nn.initializers.normal(self.width**-0.5)
        return nn.Dense(self.embed_dim, use_bias=False, dtype=dtype, kernel_init=init, name="projection")(x)


class NoisedCLIP(nn.Module):
    """Noisy images and their times, and texts, to vectors of one space.

    Attributes:
      embed_dim: the length of a vector.
      image_size: height and width of the images.
      patch_size: of a patch.
      timesteps: the times that have a vector, those of the noise schedule.
      image_width: the channels of the image tower.
      image_layers: its blocks.
      image_heads: its attention heads.
      vocab_size: token embeddings of the text tower.
      context_length: the most tokens of a text.
      text_width: the channels of the text tower.
      text_layers: its blocks.
      text_heads: its attention heads.
      dtype: what products are computed in.
    """

    embed_dim: int
    image_size: int
    patch_size: int
    timesteps: int
    image_width: int
    image_layers: int
    image_heads: int
    vocab_size: int
    context_length: int
    text_width: int
    text_layers: int
    text_heads: int
    dtype: Any = "float32"

    @property
    def latent_size(self) -> int:
        """Height and width of what the image tower takes."""
        return self.image_size

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and types of one image, its time, one row of tokens and its length."""
        side = self.image_size
        shapes = ((1, side, side, 3), jnp.float32), ((1,), jnp.float32)
        texts = ((1, self.context_length), jnp.int32), ((1,), jnp.int32)
        return tuple(jax.ShapeDtypeStruct(*one) for one in (*shapes, *texts))

    def setup(self) -> None:
        """Creates both towers."""
        self.image = NoisedImageTower(
            self.embed_dim,
            self.image_width,
            self.image_layers,
            self.image_heads,
            self.patch_size,
            self.image_size,
            self.timesteps,
            self.dtype,
        )
        self.text = NoisedTextTower(
            self.vocab_size,
            self.context_length,
            self.text_width,
            self.text_layers,
            self.text_heads,
            self.embed_dim,
            self.dtype,
        )

    def encode_image(self, x: Float[Array, "b h w 3"], t: Real[Array, " b"]) -> Float[Array, "b d"]:
        """Maps x_t [b, image_size, image_size, 3] and times [b] in [0, timesteps) to vectors, float32.

        Raises:
          UserError: the images have another size.
        """
        side = self.image_size
        if x.shape[1:] != (side, side, 3):
            raise UserError(
                f"the noised CLIP takes {side}x{side}x3, got {'x'.join(map(str, x.shape[1:]))}; use images of this size"
            )
        return self.image(x, t).astype(jnp.float32)

    def encode_text(self, tokens: Int[Array, "b n"], lengths: Int[Array, " b"]) -> Float[Array, "b d"]:
        """Maps token ids [b, context_length] and the number of tokens in each text to vectors, float32."""
        return self.text(tokens, lengths).astype(jnp.float32)

    def __call__(
        self, x: Float[Array, "b h w 3"], t: Real[Array, " b"], tokens: Int[Array, "c n"], lengths: Int[Array, " c"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "c d"]]:
        """Returns the vectors of images and of texts, not normalized."""
        return self.encode_image(x, t), self.encode_text(tokens, lengths)
