"""CLIP: an image tower (ViT or modified ResNet) and a text tower with a common space (https://arxiv.org/abs/2103.00020).

Embeddings are projected and not normalized. Pixels are normalized by CLIP's mean and standard deviation.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.models.attention import attend
from rdm_jax.models.layers import FrozenBatchNorm, LayerNorm
from rdm_jax.models.token_rows import TokenRows
from rdm_jax.models.word_table import WordTable


def quick_gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Returns x sigmoid(1.702 x), the GELU that OpenAI's weights were trained with."""
    return x * nn.sigmoid(1.702 * x)


def exact_gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Returns the GELU by erf."""
    return nn.gelu(x, approximate=False)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu}
POOLS = {"class": lambda x: x[:, 0], "mean": lambda x: x[:, 1:].mean(axis=1)}


class Block(nn.Module):
    """Self-attention and a feed-forward layer, both pre-norm residual layers.

    Attributes:
      heads: the number of attention heads.
      layers: the number of blocks in the tower; scales the initial weights of the residual branches.
      activation: "quick_gelu" or "gelu".
      causal: a token attends only to itself and those before it.
      dtype: what products are computed in.
    """

    heads: int
    layers: int
    activation: str = "quick_gelu"
    causal: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c]."""
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)
        b, n, c = x.shape

        def dense(features: int, std: float, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, kernel_init=nn.initializers.normal(std), name=name)

        added = (2 * self.layers * c) ** -0.5
        h = dense(3 * c, c**-0.5, "qkv")(LayerNorm(dtype=self.dtype, name="norm1")(x))
        q, k, v = (part.reshape(b, n, self.heads, c // self.heads) for part in jnp.split(h, 3, axis=-1))
        h = attend(q, k, v, causal=self.causal)
        x = x + dense(c, added, "out")(h.reshape(b, n, c))
        h = dense(4 * c, (2 * c) ** -0.5, "up")(LayerNorm(dtype=self.dtype, name="norm2")(x))
        return x + dense(c, added, "down")(ACTIVATIONS[self.activation](h))


def _check_pixels(shape: tuple[int, ...], image_size: int) -> None:
    if shape[1:3] != (image_size, image_size):
        raise UserError(
            f"CLIP takes {image_size}x{image_size} pixels, got {shape[1]}x{shape[2]}; resize the images first"
        )


class ViT(nn.Module):
    """The vision transformer (https://arxiv.org/abs/2010.11929) with a norm before the blocks.

    `pool` is the output: the "class" token, as in the released models, or the "mean" of the patches, which learns
    faster from few images (https://arxiv.org/abs/2205.01580).
    """

    embed_dim: int
    width: int
    layers: int
    heads: int
    patch_size: int
    image_size: int
    activation: str = "quick_gelu"
    pool: str = "class"
    dtype: Any = "float32"

    @property
    def patches(self) -> int:
        """The number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @nn.compact
    def __call__(
        self, pixels: Float[Array, "b h w 3"], kept: Int[Array, "b m"] | None = None, states: bool = False
    ) -> Float[Array, "b d"] | Float[Array, "b n c"]:
        """Maps normalized pixels [b, image_size, image_size, 3] to embeddings [b, embed_dim], float32.

        `kept` are the indices of the patches that are read, in row-major order; None reads all. With `states` the
        result is the input of the last block [b, 1 + patches, width], the class token first.

        Raises:
          UserError: the pixels have another size.
        """
        _check_pixels(pixels.shape, self.image_size)
        if self.pool not in POOLS:
            raise unknown("pool", self.pool, POOLS)
        dtype, side = jnp.dtype(self.dtype), self.patch_size
        normal = nn.initializers.normal(self.width**-0.5)
        patches = nn.Conv(
            self.width, (side, side), strides=side, padding="VALID", use_bias=False, dtype=dtype, name="patches"
        )(pixels)
        tokens = patches.reshape(pixels.shape[0], -1, self.width)
        first = self.param("class_token", normal, (self.width,)).astype(dtype)
        first = jnp.broadcast_to(first[None, None, :], (tokens.shape[0], 1, self.width))
        x = jnp.concatenate([first, tokens], axis=1)
        positions = self.param("positions", normal, (x.shape[1], self.width))
        x = x + positions.astype(dtype)[None]
        if kept is not None:
            x = jnp.concatenate([x[:, :1], jnp.take_along_axis(x, 1 + kept[:, :, None], axis=1)], axis=1)
        x = LayerNorm(dtype=dtype, name="norm_in")(x)
        for i in range(self.layers - states):
            x = Block(self.heads, self.layers, self.activation, dtype=dtype, name=f"block_{i}")(x)
        if states:
            return x.astype(jnp.float32)
        x = LayerNorm(dtype=dtype, name="norm_out")(POOLS[self.pool](x))
        x = nn.Dense(self.embed_dim, use_bias=False, dtype=dtype, kernel_init=normal, name="projection")(x)
        return x.astype(jnp.float32)


def _conv_norm(x: Array, features: int, size: int, name: str, dtype: Any, stride: int = 1) -> Array:
    """Applies a convolution `conv{name}` without bias and a frozen norm `norm{name}` inside a compact module."""
    pad = size // 2
    conv = nn.Conv(
        features, (size, size), stride, ((pad, pad), (pad, pad)), use_bias=False, dtype=dtype, name=f"conv{name}"
    )
    return FrozenBatchNorm(dtype=dtype, name=f"norm{name}")(conv(x))


def _average_pool(x: Array, stride: int) -> Array:
    b, h, w, c = x.shape
    return x.reshape(b, h // stride, stride, w // stride, stride, c).mean(axis=(2, 4)) if stride > 1 else x


class Bottleneck(nn.Module):
    """The residual block of CLIP's ResNet: convolutions of stride 1, and average pooling for a larger stride."""

    planes: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] to [b, h / stride, w / stride, 4 planes]."""
        h = nn.relu(_conv_norm(x, self.planes, 1, "1", self.dtype))
        h = nn.relu(_conv_norm(h, self.planes, 3, "2", self.dtype))
        h = _average_pool(h, self.stride)
        h = _conv_norm(h, 4 * self.planes, 1, "3", self.dtype)
        if self.stride > 1 or x.shape[-1] != 4 * self.planes:
            x = _average_pool(x, self.stride)
            x = _conv_norm(x, 4 * self.planes, 1, "_skip", self.dtype)
        return nn.relu(h + x)


class AttentionPool(nn.Module):
    """Pools a feature map by attention with one query, its mean."""

    heads: int
    embed_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Maps [b, h, w, c] to [b, embed_dim]."""
        b, height, width, c = x.shape
        normal = nn.initializers.normal(c**-0.5)
        tokens = x.reshape(b, height * width, c)
        tokens = jnp.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1)
        positions = self.param("positions", normal, (tokens.shape[1], c))
        tokens = tokens + positions.astype(self.dtype)[None]

        def project(inputs: Array, name: str) -> Array:
            flat = nn.Dense(c, dtype=self.dtype, kernel_init=normal, name=name)(inputs)
            return flat.reshape(b, inputs.shape[1], self.heads, c // self.heads)

        q, k, v = project(tokens[:, :1], "query"), project(tokens, "key"), project(tokens, "value")
        pooled = attend(q, k, v).reshape(b, c)
        return nn.Dense(self.embed_dim, dtype=self.dtype, kernel_init=normal, name="out")(pooled)


class ModifiedResNet(nn.Module):
    """CLIP's ResNet: a stem of three convolutions, antialiased strides, attention pooling (section 2.4)."""

    embed_dim: int
    width: int
    layers: tuple[int, int, int, int]
    heads: int
    image_size: int
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Maps normalized pixels [b, image_size, image_size, 3] to embeddings [b, embed_dim], float32.

        Raises:
          UserError: the pixels have another size.
        """
        _check_pixels(pixels.shape, self.image_size)
        dtype = jnp.dtype(self.dtype)
        x = nn.relu(_conv_norm(pixels, self.width // 2, 3, "1", dtype, stride=2))
        x = nn.relu(_conv_norm(x, self.width // 2, 3, "2", dtype))
        x = nn.relu(_conv_norm(x, self.width, 3, "3", dtype))
        x = _average_pool(x, 2)
        for stage, depth in enumerate(self.layers):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                x = Bottleneck(self.width * 2**stage, stride, dtype, name=f"stage_{stage + 1}_{block}")(x)
        return AttentionPool(self.heads, self.embed_dim, dtype, name="pool")(x).astype(jnp.float32)


class TextTower(TokenRows):
    """The base of causal text transformers: embedded tokens and blocks.

    Attributes:
      activation: "quick_gelu" or "gelu".
      dtype: what products are computed in.
    """

    activation: str = "quick_gelu"
    dtype: Any = "float32"

    def hidden(self, tokens: Int[Array, "b n"]) -> list[Float[Array, "b n c"]]:
        """Returns the embedded tokens and the output of every block, within a compact method.

        Raises:
          UserError: the rows are longer than `context_length`.
        """
        dtype = jnp.dtype(self.dtype)
        states = [self.embedded(tokens, dtype)]
        for i in range(self.layers):
            block = Block(self.heads, self.layers, self.activation, causal=True, dtype=dtype, name=f"block_{i}")
            states.append(block(states[-1]))
        return states


class TextTransformer(TextTower, kw_only=True):
    """CLIP's causal text transformer, read out at the end-of-text token.

    `eos_id` is the id of that token; its first occurrence counts, so that it may pad as well. None takes the highest id
    of the row, as OpenAI's code does with its own vocabulary.
    """

    embed_dim: int
    eos_id: int | None = None

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b d"]:
        """Maps token ids [b, n], n <= context_length, to embeddings [b, embed_dim], float32.

        Raises:
          UserError: the rows are longer than `context_length`.
        """
        return self.pooled(self.hidden(tokens)[-1], tokens)

    def pooled(self, x: Float[Array, "b n c"], tokens: Int[Array, "b n"]) -> Float[Array, "b d"]:
        """Returns the embeddings of the last block's output, within a compact method."""
        return self.projected(LayerNorm(dtype=jnp.dtype(self.dtype), name="norm_out")(self.at_end(x, tokens)))

    def ends(self, tokens: Int[Array, "b n"]) -> Int[Array, " b"]:
        """Returns the place of each row's end-of-text token."""
        return jnp.argmax(tokens if self.eos_id is None else tokens == self.eos_id, axis=1)

    def at_end(self, x: Float[Array, "b n c"], tokens: Int[Array, "b n"]) -> Float[Array, "b c"]:
        """Returns the state of each row's end-of-text token."""
        return jnp.take_along_axis(x, self.ends(tokens)[:, None, None], axis=1)[:, 0]

    def projected(self, x: Float[Array, "b c"]) -> Float[Array, "b d"]:
        """Returns the embeddings of states after the last norm, within a compact method."""
        init, dtype = nn.initializers.normal(self.width**-0.5), jnp.dtype(self.dtype)
        x = nn.Dense(self.embed_dim, use_bias=False, dtype=dtype, kernel_init=init, name="projection")(x)
        return x.astype(jnp.float32)


class TextStates(TextTower):
    """CLIP's causal text transformer, read out at every token after the final norm, as Stable Diffusion reads prompts.

    There is no mask: padding is read as any other token. `layers` counts the blocks that are read: Stable Diffusion 2
    leaves out the last one of its encoder.
    """

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Maps token ids [b, n], n <= context_length, to their states [b, n, width], float32.

        Raises:
          UserError: the rows are longer than `context_length`.
        """
        return LayerNorm(dtype=jnp.dtype(self.dtype), name="norm_out")(self.hidden(tokens)[-1]).astype(jnp.float32)


class CLIP(nn.Module):
    """Both towers, and `logit_scale`, the logarithm of the inverse temperature."""

    vision: ViT | ModifiedResNet
    text: TextTransformer | WordTable

    @property
    def embed_dim(self) -> int:
        """The size of the common space."""
        return self.text.embed_dim

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and types of one image and one row of tokens."""
        side = self.vision.image_size
        return (
            jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
            jax.ShapeDtypeStruct((1, self.text.context_length), jnp.int32),
        )

    def setup(self) -> None:
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ())

    def encode_image(
        self, pixels: Float[Array, "b h w 3"], kept: Int[Array, "b m"] | None = None
    ) -> Float[Array, "b d"]:
        """Maps pixels [b, image_size, image_size, 3], normalized by CLIP's mean and deviation, to [b, embed_dim].

        `kept` restricts a ViT to some of its patches, as masked training does (https://arxiv.org/abs/2212.00794).

        Raises:
          UserError: `kept` is given to a ResNet, which has no patches, or the pixels have another size.
        """
        if kept is None:
            return self.vision(pixels)
        if not isinstance(self.vision, ViT):
            raise UserError("a ResNet has no patches; only a ViT can read some of them")
        return self.vision(pixels, kept)

    def encode_patches(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Maps pixels to the states of the class token and all patches before the last block [b, 1 + patches, width].

        Raises:
          UserError: the image tower is a ResNet, which has no patches, or the pixels have another size.
        """
        if not isinstance(self.vision, ViT):
            raise UserError("a ResNet has no patches; only a ViT has states of them")
        return self.vision(pixels, states=True)

    def encode_text(self, tokens: Int[Array, "b n"]) -> Float[Array, "b d"]:
        """Maps token ids [b, n] to [b, embed_dim]."""
        return self.text(tokens)

    def __call__(
        self, pixels: Float[Array, "b h w 3"], tokens: Int[Array, "t n"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "t d"], Float[Array, ""]]:
        """Returns image embeddings [b, d], text embeddings [t, d], not normalized, and exp(logit_scale)."""
        return self.encode_image(pixels), self.encode_text(tokens), jnp.exp(self.logit_scale)
