"""The transformer over the codes of a VQ first stage, with cross-attention to retrieved neighbors.

Each block has self-attention, cross-attention to the context tokens and a gated feed-forward layer. The causal
transformer is RARM's (https://arxiv.org/abs/2204.11824, section 4.3), without a norm after the last block, as in the
released models. The other one sees every position and predicts the masked codes (MaskGIT,
https://arxiv.org/abs/2202.04200; Muse, https://arxiv.org/abs/2301.00704); it has a norm there. The decoder of Parti
(https://arxiv.org/abs/2206.10789, section 2.2) is the causal one with a norm there and a plain feed-forward layer; its
context tokens are the states of a text encoder, and neighbors are further ones. Large grids have attention over two
axes (`models.multi_axis`), as the second stage of Muse.
"""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import GatedFeedForward, Implementation, attend
from rdm_jax.models.condition import Condition, attention_bias, require_features, with_images
from rdm_jax.models.layers import LayerNorm
from rdm_jax.models.multi_axis import attend_axes, check_axes
from rdm_jax.models.vit_layers import MLP


@flax.struct.dataclass
class Cache:
    """The keys and values of every layer, for decoding one position after another.

    Attributes:
      keys: [layers, b, num_tokens, heads, head_channels] of the self-attention; positions not decoded yet are zeros.
      values: as `keys`.
      context_keys: [layers, b, n, heads, head_channels] of the cross-attention.
      context_values: as `context_keys`.
      context_bias: [b, 1, n] the logarithms of the context tokens' weights; None if all weights are 1.
    """

    keys: Any
    values: Any
    context_keys: Any
    context_values: Any
    context_bias: Any


class TokenAttention(nn.Module):
    """Multi-head attention whose keys and values are computed apart from the queries, so that they can be cached.

    Its parameters are those of `models.attention.Attention`.

    Attributes:
      num_heads: the number of heads.
      head_channels: the channels of a head.
      width: the channels of the output.
      implementation: passed to `attend`.
      dtype: what products are computed in.
    """

    num_heads: int
    head_channels: int
    width: int
    implementation: Implementation = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Creates the projections."""
        inner = self.num_heads * self.head_channels
        self.query, self.key, self.value = (nn.Dense(inner, use_bias=False, dtype=self.dtype) for _ in range(3))
        self.out = nn.Dense(self.width, dtype=self.dtype)

    def keys_values(self, tokens: Float[Array, "b m d"]) -> tuple[Float[Array, "b m h k"], Float[Array, "b m h k"]]:
        """Returns the keys and the values of tokens [b, m, d], [b, m, heads, head_channels] each."""
        return self._heads(self.key(tokens)), self._heads(self.value(tokens))

    def __call__(
        self,
        x: Float[Array, "b n c"],
        keys: Float[Array, "b m h k"],
        values: Float[Array, "b m h k"],
        bias: Float[Array, "b #n m"] | None = None,
        causal: bool = False,
    ) -> Float[Array, "b n c"]:
        """Maps queries from `x` [b, n, c], given keys and values, to [b, n, c]; `bias` and `causal` as in `attend`."""
        out = attend(self._heads(self.query(x)), keys, values, self.implementation, causal, bias)
        return self.out(out.reshape(*x.shape[:2], -1))

    def over_axes(self, x: Float[Array, "b l c"], square: int) -> Float[Array, "b l c"]:
        """Maps all positions of a grid, half of the heads over each of two axes (`multi_axis.attend_axes`)."""
        one = functools.partial(attend, implementation=self.implementation)
        out = attend_axes(self._heads(self.query(x)), *self.keys_values(x), square, one)
        return self.out(out.reshape(*x.shape[:2], -1))

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.num_heads, self.head_channels)


class TokenBlock(nn.Module):
    """Self-attention, cross-attention to the context and feed-forward, all pre-norm residual layers.

    Attributes:
      num_heads: the number of heads of both attentions.
      head_channels: the channels of a head.
      width: the channels of the tokens.
      dropout: of each layer's output.
      implementation: passed to `attend`.
      dtype: what products are computed in.
      causal: whether a position attends only to itself and those before it.
      gated: whether the feed-forward layer, four times as wide inside, is gated.
      square: the side of the squares of an attention over two axes; 0 attends to all positions.
    """

    num_heads: int
    head_channels: int
    width: int
    dropout: float = 0.0
    implementation: Implementation = None
    dtype: Any = jnp.float32
    causal: bool = True
    gated: bool = True
    square: int = 0

    def setup(self) -> None:
        """Creates the layers."""
        settings = (self.num_heads, self.head_channels, self.width, self.implementation, self.dtype)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(dtype=self.dtype) for _ in range(3))
        self.attn1, self.attn2 = TokenAttention(*settings), TokenAttention(*settings)
        init = nn.initializers.lecun_normal()
        self.ff = GatedFeedForward(self.dtype) if self.gated else MLP(4 * self.width, False, init, self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        x: Float[Array, "b l c"],
        context: Float[Array, "b n d"],
        bias: Float[Array, "b 1 n"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b l c"]:
        """Maps all positions [b, l, c] at once, given the context [b, n, d] and the bias of the attention to it."""
        x = x + self.drop(self._attended(self.norm1(x)), deterministic=deterministic)
        return self._rest(x, self.attn2.keys_values(context), bias, deterministic)

    def step(
        self, x: Float[Array, "b 1 c"], cache: Cache, layer: int, position: Int[Array, ""]
    ) -> tuple[Float[Array, "b 1 c"], Cache]:
        """Maps one position [b, 1, c] given the cache of those before it, and returns the cache with its own.

        Args:
          x: [b, 1, c] the position's channels.
          cache: of all layers.
          layer: which layer of the cache is this block's.
          position: in [0, num_tokens), traced.
        """
        h = self.norm1(x)
        key, value = self.attn1.keys_values(h)
        keys, values = (
            cache.keys.at[layer, :, position].set(key[:, 0]),
            cache.values.at[layer, :, position].set(value[:, 0]),
        )
        seen = jnp.where(jnp.arange(keys.shape[2]) <= position, 0.0, -jnp.inf)
        bias = jnp.broadcast_to(seen[None, None, :], (x.shape[0], 1, keys.shape[2]))
        x = x + self.attn1(h, keys[layer], values[layer], bias)
        x = self._rest(x, (cache.context_keys[layer], cache.context_values[layer]), cache.context_bias, True)
        return x, Cache(keys, values, cache.context_keys, cache.context_values, cache.context_bias)

    def context_keys_values(self, context: Float[Array, "b n d"]) -> tuple[Array, Array]:
        """Returns the keys and values of the context, which no position changes."""
        return self.attn2.keys_values(context)

    def _attended(self, h: Array) -> Array:
        if self.square:
            return self.attn1.over_axes(h, self.square)
        return self.attn1(h, *self.attn1.keys_values(h), causal=self.causal)

    def _rest(self, x: Array, context: tuple[Array, Array], bias: Array | None, deterministic: bool) -> Array:
        x = x + self.drop(self.attn2(self.norm2(x), *context, bias), deterministic=deterministic)
        return x + self.drop(self.ff(self.norm3(x)), deterministic=deterministic)


class TokenTransformer(nn.Module):
    """Codes in row-major order to the logits of each, given a condition and the codes before it, or all the others.

    Attributes:
      num_codes: the codes of the first stage. Inputs have `mask_token` too, and the causal one `start_token`.
      num_tokens: the positions of an image.
      width: the channels of a token.
      depth: the number of blocks.
      context_dim: the channels of a context token.
      head_channels: the channels of an attention head; divides `width`.
      dropout: of each layer's output, in training.
      dtype: what products are computed in; norms, softmax and logits are in float32.
      remat: whether blocks are computed again in the backward pass, which saves memory.
      attention_implementation: passed to `attend`.
      causal: whether the logits of a code depend on those before it alone; otherwise on all inputs, its own included,
        which is `mask_token` where the code is to be predicted.
      gated: whether feed-forward layers are gated (GEGLU), or two linear layers with a GELU between them.
      final_norm: whether the causal transformer has a norm after the last block too.
      square: the side of the squares of positions in an attention over two axes (`models.multi_axis`), of a transformer
        that is not causal; 0 attends to all positions.
    """

    num_codes: int
    num_tokens: int
    width: int
    depth: int
    context_dim: int
    head_channels: int = 64
    dropout: float = 0.0
    dtype: Any = "float32"
    remat: bool = False
    attention_implementation: Implementation = None
    causal: bool = True
    gated: bool = True
    final_norm: bool = False
    square: int = 0

    supports: ClassVar[frozenset[str]] = frozenset({"token_weights", "images"})
    size_multiple: ClassVar[int] = 1

    @property
    def latent_size(self) -> int:
        """The height and width of an image's codes, where they are a square."""
        return math.isqrt(self.num_tokens)

    @property
    def has_norm(self) -> bool:
        """Whether there is a norm after the last block."""
        return self.final_norm or not self.causal

    @property
    def mask_token(self) -> int:
        """The input token of a hidden code."""
        return self.num_codes

    @property
    def start_token(self) -> int:
        """The input token of the first position."""
        return self.num_codes + 1

    @property
    def smallest_inputs(self) -> tuple[Any, ...]:
        """Shapes and types of the smallest inputs: codes and a condition."""
        codes = jax.ShapeDtypeStruct((1, max(self.square, 1) ** 2), jnp.int32)
        return codes, Condition(jax.ShapeDtypeStruct((1, 1, self.context_dim), jnp.float32))

    def setup(self) -> None:
        """Creates the embeddings, the blocks and the projection to logits."""
        if self.width % self.head_channels:
            raise UserError(f"head_channels={self.head_channels} does not divide width={self.width}; choose a divisor")
        if self.square and self.causal:
            raise UserError(f"square={self.square}: a causal transformer attends to all positions before; set it to 0")
        if self.square:
            check_axes(self.square, self.num_tokens, self.width // self.head_channels)
        dtype, normal = jnp.dtype(self.dtype), nn.initializers.normal(0.02)
        inputs = self.num_codes + (2 if self.causal else 1)  # the mask token, and the start token
        self.embed = nn.Embed(inputs, self.width, embedding_init=normal, dtype=dtype)
        self.positions = self.param("positions", normal, (self.num_tokens, self.width))
        block = nn.remat(TokenBlock, static_argnums=(4,)) if self.remat else TokenBlock
        settings = (self.width // self.head_channels, self.head_channels, self.width)
        rest = (self.dropout, self.attention_implementation, dtype, self.causal, self.gated, self.square)
        self.block = [block(*settings, *rest) for _ in range(self.depth)]
        if self.has_norm:
            self.norm_out = LayerNorm(dtype=dtype)
        self.logits = nn.Dense(self.num_codes, kernel_init=normal, dtype=dtype)

    def __call__(
        self, codes: Int[Array, "b l"], condition: Condition, *, deterministic: bool = True
    ) -> Float[Array, "b l k"]:
        """Returns the logits [b, l, num_codes] of every code in float32.

        Those of the causal transformer at i depend on the codes before i alone: the start token is prepended here and
        the last code is not read, so that the logits at i are those of codes[i].

        Args:
          codes: [b, l] in [0, num_codes) (or `mask_token`), l at most `num_tokens`.
          condition: its tokens [b, n, context_dim], a set without order. No tokens (n = 0) are the same as tokens of
            zeros, the unconditional model of RARM. Weights [b, n] count a token as often in every cross-attention:
            0 as if it were absent. Images are further tokens, each counting as often as its group's scale says.
          deterministic: without dropout; otherwise the "dropout" stream of random keys is needed.

        Raises:
          UserError: there are too many codes, or the condition does not fit.
        """
        if codes.shape[1] > self.num_tokens:
            raise UserError(f"{codes.shape[1]} codes, and the transformer has positions for {self.num_tokens}")
        context, bias = self._context(condition)
        if self.causal:
            start = jnp.full((codes.shape[0], 1), self.start_token, codes.dtype)
            codes = jnp.concatenate([start, codes[:, :-1]], axis=1)
        x = self._embedded(codes, self.positions[None, : codes.shape[1]])
        for block in self.block:
            x = block(x, context, bias, deterministic)
        return self._logits(x)

    def init_cache(self, condition: Condition) -> Cache:
        """Returns the cache of no decoded position, with the keys and values of the context.

        Args:
          condition: as for `__call__`; its tokens' b is the number of images.
        """
        context, bias = self._context(condition)
        pairs = [block.context_keys_values(context) for block in self.block]
        keys, values = (jnp.stack(parts) for parts in zip(*pairs, strict=True))
        heads = self.width // self.head_channels
        empty = jnp.zeros((self.depth, context.shape[0], self.num_tokens, heads, self.head_channels), keys.dtype)
        return Cache(empty, empty, keys, values, bias)

    def decode_step(
        self, cache: Cache, token: Int[Array, " b"], position: Int[Array, ""]
    ) -> tuple[Float[Array, "b k"], Cache]:
        """Returns the logits [b, num_codes] of the code at `position` in float32, and the cache with this position.

        Args:
          cache: of all positions before.
          token: [b] the input token: `start_token` at position 0, later the code at `position` - 1.
          position: in [0, num_tokens), traced.
        """
        x = self._embedded(token[:, None], jnp.asarray(self.positions)[position][None, None])
        for layer, block in enumerate(self.block):
            x, cache = block.step(x, cache, layer, position)
        return self._logits(x)[:, 0], cache

    def _logits(self, x: Array) -> Array:
        return self.logits(self.norm_out(x) if self.has_norm else x).astype(jnp.float32)

    def _embedded(self, tokens: Array, positions: Any) -> Array:
        return self.embed(tokens) + jnp.asarray(positions, jnp.dtype(self.dtype))

    def _context(self, condition: Condition) -> tuple[Array, Array | None]:
        """Returns the context tokens in the type of products, and the bias of the attention to them."""
        require_features("the token transformer", self.supports, condition)
        tokens, weights = with_images(condition)
        if tokens.shape[2] != self.context_dim:
            raise UserError(f"context tokens have {tokens.shape[2]} numbers, the transformer takes {self.context_dim}")
        if tokens.shape[1] == 0:  # a softmax over nothing would be NaN
            tokens, weights = jnp.zeros((tokens.shape[0], 1, tokens.shape[2])), None
        bias = None if weights is None else attention_bias(weights, 1)
        return tokens.astype(jnp.dtype(self.dtype)), bias
