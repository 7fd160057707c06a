"""Attention over pixels and context tokens: the autoencoders' single head and the U-Net's transformer blocks."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.models.condition import ImageTokens
from rdm_jax.models.layers import GroupNorm, LayerNorm, norm_of

WEIGHTS = 2**24  # the most attention weights that are computed at a time, 64 MiB in float32

Implementation = Literal["xla", "cudnn"] | None


def attend(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    v: Float[Array, "b m h d"],
    implementation: Implementation = None,
    causal: bool = False,
    bias: Float[Array, "b #n m"] | None = None,
) -> Float[Array, "b n h d"]:
    """Returns softmax(q k^T / sqrt(d)) v of each head, the softmax in float32 (https://arxiv.org/abs/1706.03762).

    Args:
      q: queries.
      k: keys.
      v: values.
      implementation: passed to `jax.nn.dot_product_attention`. On the CPU, None computes with the heads before the
        tokens, which is several times as fast there, and one head after another if the weights of all are large.
      causal: a token attends only to itself and those before it.
      bias: added to the logits of all heads, for each query or one for all of them.
    """
    if implementation is not None or jax.default_backend() != "cpu":
        added = None if bias is None else bias[:, None]
        return jax.nn.dot_product_attention(q, k, v, bias=added, is_causal=causal, implementation=implementation)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    if q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= WEIGHTS:
        return jnp.swapaxes(_attend_heads(q, k, v, causal, None if bias is None else bias[:, None]), 1, 2)
    one = functools.partial(_attend_heads, causal=causal, bias=bias)
    out = jax.lax.map(lambda head: one(*head), tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v)))
    return jnp.moveaxis(out, 0, 2)


def largest_logit(q: Float[Array, "b n h d"], k: Float[Array, "b m h d"]) -> Float[Array, " b"]:
    """Returns the largest q k^T / sqrt(d) of all queries, keys and heads of each example, in float32."""
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32)
    return jnp.max(logits, axis=(1, 2, 3)) * q.shape[-1] ** -0.5


def _attend_heads(q: Array, k: Array, v: Array, causal: bool, bias: Array | None) -> Array:
    """Returns the attention of scaled queries [..., n, d] to keys and values [..., m, d]."""
    logits = jnp.einsum("...nd,...md->...nm", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits += bias
    if causal:
        logits = jnp.where(jnp.tri(*logits.shape[-2:], dtype=bool), logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("...nm,...md->...nd", weights, v)


class Attention(nn.Module):
    """Multi-head attention from tokens `x` to tokens `context`; `implementation` is passed to `attend`."""

    num_heads: int
    head_channels: int
    implementation: Implementation = None
    dtype: Any = jnp.float32
    out_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        context: Float[Array, "b m d"],
        bias: Float[Array, "b #n m"] | None = None,
        images: ImageTokens | None = None,
        paint: Float[Array, "b n m"] | None = None,
    ) -> Float[Array, "b n c"]:
        """Maps queries from `x` [b, n, c], keys and values from `context` [b, m, d], to [b, n, c].

        `paint`, times the largest logit of all heads, is added to the logits (eDiff-I, section 4.3).

        `images` (`condition.image_context`) have keys and values of their own for the same queries, and their attention
        is added (IP-Adapter, https://arxiv.org/abs/2308.06721, eq. 5).
        """

        def project(tokens: Array, name: str) -> Array:
            inner = self.num_heads * self.head_channels
            flat = nn.Dense(inner, use_bias=False, dtype=self.dtype, name=name)(tokens)
            return flat.reshape(*tokens.shape[:-1], self.num_heads, self.head_channels)

        q, k, v = project(x, "query"), project(context, "key"), project(context, "value")
        if paint is not None:
            added = paint * largest_logit(q, k)[:, None, None]
            bias = added if bias is None else bias + added
        out = attend(q, k, v, self.implementation, bias=bias)
        if images is not None:
            tokens = images.tokens.astype(self.dtype)
            keys, values = project(tokens, "image_key"), project(tokens, "image_value")
            for group in range(tokens.shape[1]):
                weights = None if images.weights is None else images.weights[:, group][:, None]
                added = attend(q, keys[:, group], values[:, group], self.implementation, bias=weights)
                out = out + images.scales[:, :, group][:, :, None, None].astype(out.dtype) * added
        last = nn.Dense(x.shape[-1], use_bias=self.out_bias, dtype=self.dtype, name="out")
        return last(out.reshape(*x.shape[:2], -1))


class GatedFeedForward(nn.Module):
    """The GEGLU feed-forward layer, four times as wide inside (https://arxiv.org/abs/2002.05202, equation 5)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c]; the GELU is exact, by erf."""
        value, gate = jnp.split(nn.Dense(8 * x.shape[-1], dtype=self.dtype, name="up")(x), 2, axis=-1)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(value * nn.gelu(gate, approximate=False))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context and feed-forward, all pre-norm residual layers."""

    head_channels: int
    implementation: Implementation = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        context: Float[Array, "b m d"],
        bias: Float[Array, "b #n m"] | None = None,
        images: ImageTokens | None = None,
        paint: Float[Array, "b n m"] | None = None,
    ) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c] given `context` [b, m, d], with a bias of the attention to it, images, paint."""
        heads = x.shape[-1] // self.head_channels
        settings = (heads, self.head_channels, self.implementation, self.dtype)
        h = LayerNorm(dtype=self.dtype, name="norm1")(x)
        x = x + Attention(*settings, name="attn1")(h, h)
        h = LayerNorm(dtype=self.dtype, name="norm2")(x)
        x = x + Attention(*settings, name="attn2")(h, context, bias, images, paint)
        return x + GatedFeedForward(self.dtype, name="ff")(LayerNorm(dtype=self.dtype, name="norm3")(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, conditioned on context tokens, with a residual connection.

    The context has no positions: its tokens are a set (https://arxiv.org/abs/2204.11824, section 3.2). If `gated`
    is not 0, its norm is a `layers.GatedNorm` with so many inner channels.
    """

    head_channels: int
    depth: int = 1
    num_groups: int = 32
    implementation: Implementation = None
    dtype: Any = jnp.float32
    gated: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        context: Float[Array, "b m d"],
        bias: Float[Array, "b #n m"] | None = None,
        images: ImageTokens | None = None,
        paint: Float[Array, "b n m"] | None = None,
        gate: Float[Array, "b h2 w2 g"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Maps [b, h, w, c] to [b, h, w, c] given `context` [b, m, d], a bias for each of the h w pixels, and images.

        `images` is a `condition.image_context`, `paint` that of `Attention` for each of the pixels, and `gate` the map
        of a gated norm.
        """
        b, h, w, c = x.shape
        tokens = norm_of(x, (self.num_groups, 1e-6, self.dtype), "norm", self.gated, gate).reshape(b, h * w, c)
        tokens = nn.Dense(c, dtype=self.dtype, name="proj_in")(tokens)
        for i in range(self.depth):
            block = TransformerBlock(self.head_channels, self.implementation, self.dtype, name=f"block_{i}")
            tokens = block(tokens, context, bias, images, paint)
        zeros = nn.initializers.zeros
        tokens = nn.Dense(c, dtype=self.dtype, kernel_init=zeros, name="proj_out")(tokens)
        return x + tokens.reshape(b, h, w, c)


class AttentionBlock(nn.Module):
    """Multi-head self-attention over the pixels of a feature map, with a residual connection; of ADM.

    Where there is a context, its tokens have keys and values in the same softmax (GLIDE, https://arxiv.org/abs/
    2112.10741, section 2). The outputs of `qkv` and `context` are grouped by head first.
    """

    head_channels: int
    num_groups: int = 32
    implementation: Implementation = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        context: Float[Array, "b m d"] | None = None,
        bias: Float[Array, "b #n m"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Maps [b, h, w, c] to [b, h, w, c], given `context` [b, m, d] and a bias of the attention to it."""
        b, h, w, c = x.shape

        def project(tokens: Array, parts: int, name: str) -> list[Array]:
            flat = nn.Dense(parts * c, dtype=self.dtype, name=name)(tokens)
            heads = flat.reshape(b, tokens.shape[1], c // self.head_channels, parts * self.head_channels)
            return jnp.split(heads, parts, axis=-1)

        pixels = GroupNorm(self.num_groups, 1e-5, self.dtype, name="norm")(x).reshape(b, h * w, c)
        q, k, v = project(pixels, 3, "qkv")
        if context is not None:
            k, v = (jnp.concatenate(two, axis=1) for two in zip(project(context, 2, "context"), (k, v), strict=True))
        if bias is not None:
            bias = jnp.pad(bias, ((0, 0), (0, 0), (0, h * w)))  # of the pixels: 0
        out = attend(q, k, v, self.implementation, bias=bias).reshape(b, h * w, c)
        zeros = nn.initializers.zeros
        return x + nn.Dense(c, dtype=self.dtype, kernel_init=zeros, name="proj_out")(out).reshape(b, h, w, c)


class PixelAttention(nn.Module):
    """Single-head self-attention over the pixels of a feature map, with a residual connection; of autoencoders."""

    num_groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps [b, h, w, c] to [b, h, w, c]."""
        b, h, w, c = x.shape
        tokens = GroupNorm(self.num_groups, 1e-6, self.dtype, name="norm")(x).reshape(b, h * w, c)
        q, k, v = (
            nn.Dense(c, dtype=self.dtype, name=name)(tokens)[:, :, None, :] for name in ("query", "key", "value")
        )
        out = attend(q, k, v).reshape(b, h * w, c)
        return x + nn.Dense(c, dtype=self.dtype, name="out")(out).reshape(b, h, w, c)
