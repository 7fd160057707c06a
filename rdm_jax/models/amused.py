"""aMUSEd's U-ViT: a transformer over the codes of a VQ first stage between two groups of convolutional blocks.

aMUSEd (https://arxiv.org/abs/2401.01808) predicts masked codes as Muse does. Its convolutional blocks have no
self-attention and its transformer layers no positions: the convolutions tell places apart, so that images may have any
size. There are no biases. The condition's vector is the pooled text with five numbers behind it, the
micro-conditions: width, height, top and left of the crop, aesthetic score.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import Attention, Implementation
from rdm_jax.models.condition import Condition, attention_bias, require_features, require_vector
from rdm_jax.models.layers import timestep_embedding

EPSILON = 1e-6
MICRO_CONDITIONS = 5  # width, height, top and left of the crop, aesthetic score


class ScaleNorm(nn.Module):
    """Normalization over the channels by a scale alone, computed in float32: by the root mean square, or centered.

    Attributes:
      centered: whether the mean is subtracted first (layer normalization without a bias).
      dtype: of the result.
    """

    centered: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*any c"]) -> Float[Array, "*any c"]:
        """Normalizes the last axis."""
        scale: Any = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        if self.centered:
            x = x - x.mean(axis=-1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON)
        return (x * factor * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)


class AdaptiveNorm(nn.Module):
    """A norm whose output the condition vector scales and shifts."""

    centered: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], cond: Float[Array, "b e"]) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c] given a vector [b, e]."""
        mapped = nn.Dense(2 * x.shape[-1], use_bias=False, dtype=self.dtype, name="linear")(nn.silu(cond))
        scale, shift = jnp.split(mapped[:, None], 2, axis=-1)
        return ScaleNorm(self.centered, self.dtype, name="norm")(x) * (1.0 + scale) + shift


class ResponseNorm(nn.Module):
    """Global response normalization of a feature map (ConvNeXt V2, https://arxiv.org/abs/2301.00808, section 3.2)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps [b, h, w, c] to [b, h, w, c]."""
        zeros, shape = nn.initializers.zeros, (1, 1, 1, x.shape[-1])
        gamma, beta = self.param("gamma", zeros, shape), self.param("beta", zeros, shape)
        norms = jnp.sqrt(jnp.sum(x.astype(jnp.float32) ** 2, axis=(1, 2), keepdims=True))
        relative = norms / (jnp.mean(norms, axis=-1, keepdims=True) + EPSILON)
        return (gamma * (x * relative) + beta + x).astype(x.dtype)


class ConvNextBlock(nn.Module):
    """A depthwise convolution and a layer four times as wide inside, which the condition vector scales and shifts."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], cond: Float[Array, "b e"]) -> Float[Array, "b h w c"]:
        """Maps [b, h, w, c] to [b, h, w, c] given a vector [b, e]."""
        width = x.shape[-1]

        def linear(channels: int, name: str) -> nn.Dense:
            return nn.Dense(channels, use_bias=False, dtype=self.dtype, name=name)

        h = nn.Conv(width, (3, 3), feature_group_count=width, use_bias=False, dtype=self.dtype, name="depthwise")(x)
        h = linear(4 * width, "up")(ScaleNorm(dtype=self.dtype, name="norm")(h))
        h = linear(width, "down")(ResponseNorm(name="response")(nn.gelu(h, approximate=False)))
        scale, shift = jnp.split(linear(2 * width, "cond")(nn.silu(cond))[:, None, None], 2, axis=-1)
        return (x + h) * (1.0 + scale) + shift


class ContextBlock(nn.Module):
    """Two layers of cross-attention from the pixels of a feature map to the context."""

    heads: int
    implementation: Implementation = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: Float[Array, "b m d"], bias: Float[Array, "b 1 m"] | None
    ) -> Float[Array, "b h w c"]:
        """Maps [b, h, w, c] to [b, h, w, c] given context tokens [b, m, d] and the bias of the attention to them."""
        width = x.shape[-1]
        context = nn.Dense(width, use_bias=False, dtype=self.dtype, name="context")(nn.silu(context))
        tokens = x.reshape(len(x), -1, width)
        for number in (1, 2):
            h = ScaleNorm(dtype=self.dtype, name=f"norm{number}")(tokens)
            settings = (self.heads, width // self.heads, self.implementation, self.dtype, False)
            tokens = tokens + Attention(*settings, name=f"attn{number}")(h, context, bias)
        return tokens.reshape(x.shape)


class AmusedLayer(nn.Module):
    """Self-attention, cross-attention and a gated feed-forward layer, each behind a norm with the condition vector."""

    heads: int
    mlp_width: int
    implementation: Implementation = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        cond: Float[Array, "b c"],
        context: Float[Array, "b m c"],
        bias: Float[Array, "b 1 m"] | None,
    ) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c] given a vector [b, c], context tokens [b, m, c] and their bias."""
        width, dtype = x.shape[-1], self.dtype
        settings = (self.heads, width // self.heads, self.implementation, dtype, False)
        h = AdaptiveNorm(dtype=dtype, name="norm1")(x, cond)
        x = x + Attention(*settings, name="attn1")(h, h)
        x = x + Attention(*settings, name="attn2")(AdaptiveNorm(dtype=dtype, name="norm2")(x, cond), context, bias)
        h = AdaptiveNorm(True, dtype, name="norm3")(x, cond)
        h = nn.Dense(2 * self.mlp_width, use_bias=False, dtype=dtype, name="ff_up")(h)
        value, gate = jnp.split(h, 2, axis=-1)
        h = value * nn.gelu(gate, approximate=False)
        return x + nn.Dense(width, use_bias=False, dtype=dtype, name="ff_down")(h)


class AmusedUViT(nn.Module):
    """aMUSEd's network from codes, some of them masked, to the logits of each.

    Attributes:
      num_codes: the codes of the first stage.
      vocab_size: the inputs; the last one is the mask token.
      latent_size: the height and width of the codes that it was trained on.
      width: the channels of the transformer layers.
      depth: the number of transformer layers.
      heads: of their attentions.
      mlp_width: of their feed-forward layers, inside.
      embed_dim: the channels of an embedded code.
      block_width: the channels of the convolutional blocks.
      block_depth: the number of blocks before the transformer, and after it.
      block_heads: of the attentions in the blocks.
      context_dim: the channels of a context token.
      pooled_dim: the numbers of the pooled text.
      micro_dim: the sinusoids of each micro-condition.
      resample: whether the blocks have half the height and width of the codes.
      dtype: what products are computed in; norms, softmax and logits are in float32.
      attention_implementation: passed to `attend`.
    """

    num_codes: int
    vocab_size: int
    latent_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    embed_dim: int
    block_width: int
    block_depth: int
    block_heads: int
    context_dim: int
    pooled_dim: int
    micro_dim: int = 256
    resample: bool = False
    dtype: Any = "float32"
    attention_implementation: Implementation = None

    causal: ClassVar[bool] = False
    supports: ClassVar[frozenset[str]] = frozenset({"token_weights", "vector", "any_size"})

    @property
    def num_tokens(self) -> int:
        """The codes of an image of the size that it was trained on."""
        return self.latent_size**2

    @property
    def mask_token(self) -> int:
        """The input token of a masked code."""
        return self.vocab_size - 1

    @property
    def size_multiple(self) -> int:
        """What height and width of the codes are multiples of."""
        return 2 if self.resample else 1

    @property
    def smallest_inputs(self) -> tuple[Any, ...]:
        """Shapes and types of the smallest inputs: codes and a condition."""
        side = self.size_multiple
        shapes = (1, 1, self.context_dim), (1, self.pooled_dim + MICRO_CONDITIONS)
        tokens, vector = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        return jax.ShapeDtypeStruct((1, side, side), jnp.int32), Condition(tokens, vector=vector)

    @nn.compact
    def __call__(
        self, codes: Int[Array, "b h w"], condition: Condition, *, deterministic: bool = True
    ) -> Float[Array, "b h w k"]:
        """Returns the logits [b, h, w, num_codes] of every code in float32.

        Args:
          codes: [b, h, w] in [0, num_codes), or `mask_token`.
          condition: its tokens [b, n, context_dim] with weights [b, n], if any, and its vector [b, pooled_dim + 5].
          deterministic: there is no dropout; for the protocol.

        Raises:
          UserError: a size does not fit, or the condition needs what this network does not support.
        """
        dtype = jnp.dtype(self.dtype)
        context, bias, cond = self._condition(condition, dtype)
        if any(side % self.size_multiple for side in codes.shape[1:]):
            raise UserError(f"{codes.shape[1]}x{codes.shape[2]} codes are not multiples of {self.size_multiple}")
        x = nn.Embed(self.vocab_size, self.embed_dim, dtype=dtype, name="embed")(codes)
        x = self._linear(self.block_width, "embed_conv")(ScaleNorm(dtype=dtype, name="embed_norm")(x))
        if self.resample:
            x = ScaleNorm(dtype=dtype, name="down_norm")(x)
            x = nn.Conv(self.block_width, (2, 2), (2, 2), "VALID", use_bias=False, dtype=dtype, name="down_conv")(x)
        x = self._blocks(x, "down", cond, context, bias)
        tokens = ScaleNorm(dtype=dtype, name="in_norm")(x).reshape(len(x), -1, self.block_width)
        tokens = self._linear(self.width, "in")(tokens)
        for i in range(self.depth):
            layer = AmusedLayer(self.heads, self.mlp_width, self.attention_implementation, dtype, name=f"layer_{i}")
            tokens = layer(tokens, cond, context, bias)
        tokens = self._linear(self.block_width, "out")(ScaleNorm(dtype=dtype, name="out_norm")(tokens))
        x = self._blocks(tokens.reshape(x.shape), "up", cond, context, bias)
        if self.resample:
            x = ScaleNorm(dtype=dtype, name="up_norm")(x)
            x = nn.ConvTranspose(
                self.block_width, (2, 2), (2, 2), "VALID", use_bias=False, dtype=dtype, transpose_kernel=True,
                name="up_conv",
            )(x)  # fmt: skip
        x = ScaleNorm(dtype=dtype, name="logits_norm")(self._linear(self.embed_dim, "logits_1")(x))
        return self._linear(self.num_codes, "logits_2")(x).astype(jnp.float32)

    def _linear(self, channels: int, name: str) -> nn.Dense:
        return nn.Dense(channels, use_bias=False, dtype=jnp.dtype(self.dtype), name=name)

    def _blocks(self, x: Array, side: str, cond: Array, context: Array, bias: Array | None) -> Array:
        """Returns a feature map after the blocks before ("down") or behind ("up") the transformer."""
        dtype = jnp.dtype(self.dtype)
        for i in range(self.block_depth):
            x = ConvNextBlock(dtype, name=f"{side}_res_{i}")(x, cond)
            block = ContextBlock(self.block_heads, self.attention_implementation, dtype, name=f"{side}_attn_{i}")
            x = block(x, context, bias)
        return x

    def _condition(self, condition: Condition, dtype: Any) -> tuple[Array, Array | None, Array]:
        """Returns the context tokens, the bias of the attention to them, and the condition vector."""
        require_features("aMUSEd's U-ViT", self.supports, condition)
        tokens, vector = condition.tokens, condition.vector
        size = self.pooled_dim + MICRO_CONDITIONS
        if tokens.shape[2] != self.context_dim:
            raise UserError(f"context tokens have {tokens.shape[2]} numbers, aMUSEd's U-ViT takes {self.context_dim}")
        require_vector("aMUSEd's U-ViT", size, condition)
        context = self._linear(self.width, "context")(tokens.astype(dtype))
        context = ScaleNorm(dtype=dtype, name="context_norm")(context)
        micro = vector[:, self.pooled_dim :]
        sinusoids = timestep_embedding(micro.reshape(-1), self.micro_dim).reshape(len(vector), -1)
        cond = jnp.concatenate([vector[:, : self.pooled_dim], sinusoids], axis=-1).astype(dtype)
        cond = self._linear(self.width, "cond_2")(nn.silu(self._linear(self.width, "cond_1")(cond)))
        bias = None if condition.weights is None else attention_bias(condition.weights, 1)
        return context, bias, cond
