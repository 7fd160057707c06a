"""The decoder-only transformer of enhancing-transformers' second stage: codes behind the token of a condition.

https://github.com/thuanz123/enhancing-transformers. Queries, keys and values are those of a mixture of each position
and the one before it, by a learned weight of each channel (RWKV, https://arxiv.org/abs/2305.13048, section 3.1.1), and
the feed-forward layers have squared ReLUs (https://arxiv.org/abs/2109.08668). The program's own cache forgets the
position before; here it is a part of the cache, so that decoding one code after another gives what one pass does.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import attend
from rdm_jax.models.condition import Condition, require_features
from rdm_jax.models.layers import LayerNorm


@flax.struct.dataclass
class MixCache:
    """What decoding one position after another keeps.

    Attributes:
      keys: [layers, b, num_tokens, heads, head_channels]; positions not decoded yet are zeros.
      values: as `keys`.
      before: [b, layers, c] the input of each layer's attention at the last position; zeros before the first.
      condition: [b, c] the embedded condition, the input of the first position.
    """

    keys: Any
    values: Any
    before: Any
    condition: Any


class MixBlock(nn.Module):
    """Attention to what lies before, with time mixing, and a feed-forward layer; both are pre-norm residual layers.

    Attributes:
      heads: the number of heads.
      width: the channels of the tokens.
      dtype: what products are computed in.
    """

    heads: int
    width: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Creates the layers."""
        self.norm1, self.norm2 = LayerNorm(dtype=self.dtype), LayerNorm(dtype=self.dtype)
        self.query, self.key, self.value, self.out = (nn.Dense(self.width, dtype=self.dtype) for _ in range(4))
        self.up, self.down = nn.Dense(4 * self.width, dtype=self.dtype), nn.Dense(self.width, dtype=self.dtype)
        self.mix = self.param("mix", nn.initializers.constant(0.5), (self.width,))

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Maps all positions [b, n, c] at once."""
        h = self.norm1(x)
        q, k, v = self._mixed(h, jnp.pad(h, ((0, 0), (1, 0), (0, 0)))[:, :-1])
        return self._rest(x, attend(q, k, v, causal=True))

    def step(
        self, x: Float[Array, "b 1 c"], cache: MixCache, layer: int, position: Int[Array, ""]
    ) -> tuple[Float[Array, "b 1 c"], MixCache]:
        """Maps one position [b, 1, c] given the cache of those before it, and returns the cache with its own.

        Args:
          x: the position's channels.
          cache: of all layers.
          layer: which layer of the cache is this block's.
          position: in [0, num_tokens), traced.
        """
        h = self.norm1(x)
        q, k, v = self._mixed(h, cache.before[:, layer, None].astype(h.dtype))
        keys, values = (
            held.at[layer, :, position].set(own[:, 0]) for held, own in ((cache.keys, k), (cache.values, v))
        )
        seen = jnp.where(jnp.arange(keys.shape[2]) <= position, 0.0, -jnp.inf)
        bias = jnp.broadcast_to(seen[None, None, :], (x.shape[0], 1, keys.shape[2]))
        x = self._rest(x, attend(q, keys[layer], values[layer], bias=bias))
        return x, MixCache(keys, values, cache.before.at[:, layer].set(h[:, 0]), cache.condition)

    def _mixed(self, h: Array, before: Array) -> tuple[Array, ...]:
        """Returns queries, keys and values [b, n, heads, channels]."""
        mix = jnp.asarray(self.mix, self.dtype)[None, None]
        mixed = h * mix + before * (1.0 - mix)
        layers = (self.query, self.key, self.value)
        return tuple(layer(mixed).reshape(*h.shape[:2], self.heads, -1) for layer in layers)

    def _rest(self, x: Array, attended: Array) -> Array:
        x = x + self.out(attended.reshape(x.shape))
        return x + self.down(nn.relu(self.up(self.norm2(x))) ** 2)


class TimeMixTransformer(nn.Module):
    """Codes in row-major order to the logits of each, given the one token of a condition and the codes before.

    Attributes:
      num_codes: the codes of the first stage.
      num_tokens: the positions of an image.
      width: the channels of a token, those of the condition among them.
      depth: the number of blocks.
      heads: of each block; divides `width`.
      dtype: what products are computed in; norms, softmax and logits are in float32.
    """

    num_codes: int
    num_tokens: int
    width: int
    depth: int
    heads: int
    dtype: Any = "float32"

    supports: ClassVar[frozenset[str]] = frozenset()
    causal: ClassVar[bool] = True
    size_multiple: ClassVar[int] = 1
    start_token: ClassVar[int] = 0  # is not read: the condition is the first input

    @property
    def context_dim(self) -> int:
        """The size of the condition's token."""
        return self.width

    @property
    def smallest_inputs(self) -> tuple[Any, ...]:
        """Shapes and types of the smallest inputs: codes and a condition."""
        codes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
        return codes, Condition(jax.ShapeDtypeStruct((1, 1, self.width), jnp.float32))

    def setup(self) -> None:
        """Creates the embeddings, the blocks and the projection to logits."""
        if self.width % self.heads:
            raise UserError(f"heads={self.heads} does not divide width={self.width}; choose a divisor")
        dtype, normal = jnp.dtype(self.dtype), nn.initializers.normal(0.02)
        self.embed = nn.Embed(self.num_codes, self.width, embedding_init=normal, dtype=dtype)
        self.positions = self.param("positions", normal, (self.num_tokens, self.width))
        self.condition_position = self.param("condition_position", normal, (1, self.width))
        self.block = [MixBlock(self.heads, self.width, dtype) for _ in range(self.depth)]
        self.norm_out = LayerNorm(dtype=dtype)
        self.logits = nn.Dense(self.num_codes, use_bias=False, kernel_init=normal, dtype=dtype)

    def __call__(
        self, codes: Int[Array, "b l"], condition: Condition, *, deterministic: bool = True
    ) -> Float[Array, "b l k"]:
        """Returns the logits [b, l, num_codes] of every code in float32; those at i depend on the codes before i alone.

        Args:
          codes: [b, l] in [0, num_codes), l at most `num_tokens`; the last one is not read.
          condition: one token [b, 1, width].
          deterministic: there is no dropout.

        Raises:
          UserError: there are too many codes, or the condition does not fit.
        """
        if codes.shape[1] > self.num_tokens:
            raise UserError(f"{codes.shape[1]} codes, and the transformer has positions for {self.num_tokens}")
        x = jnp.concatenate([self._first(condition)[:, None], self._embedded(codes[:, :-1], 0)], axis=1)
        for block in self.block:
            x = block(x)
        return self._logits(x)

    def init_cache(self, condition: Condition) -> MixCache:
        """Returns the cache of no decoded position; `condition` as for `__call__`."""
        first = self._first(condition)
        b, dtype = first.shape[0], jnp.dtype(self.dtype)
        empty = jnp.zeros((self.depth, b, self.num_tokens, self.heads, self.width // self.heads), dtype)
        return MixCache(empty, empty, jnp.zeros((b, self.depth, self.width), dtype), first)

    def decode_step(
        self, cache: MixCache, token: Int[Array, " b"], position: Int[Array, ""]
    ) -> tuple[Float[Array, "b k"], MixCache]:
        """Returns the logits [b, num_codes] of the code at `position` in float32, and the cache with this position.

        Args:
          cache: of all positions before.
          token: [b] the code at `position` - 1; at position 0 it is not read.
          position: in [0, num_tokens), traced.
        """
        before = self._embedded(token[:, None], jnp.maximum(position - 1, 0))[:, 0]
        x = jnp.where(position == 0, cache.condition, before)[:, None]
        for layer, block in enumerate(self.block):
            x, cache = block.step(x, cache, layer, position)
        return self._logits(x)[:, 0], cache

    def _first(self, condition: Condition) -> Array:
        """Returns the embedded condition [b, c]."""
        require_features("the transformer", self.supports, condition)
        tokens = condition.tokens
        if tokens.shape[1:] != (1, self.width):
            raise UserError(
                f"the condition has {tokens.shape[1]} tokens of {tokens.shape[2]} numbers, and this transformer takes "
                f"one of {self.width}"
            )
        return tokens[:, 0].astype(jnp.dtype(self.dtype)) + jnp.asarray(self.condition_position, jnp.dtype(self.dtype))

    def _embedded(self, codes: Array, first: Any) -> Array:
        """Returns the embedded codes from a position on."""
        positions = jnp.asarray(self.positions, jnp.dtype(self.dtype))
        return self.embed(codes) + jax.lax.dynamic_slice_in_dim(positions, first, codes.shape[1])[None]

    def _logits(self, x: Array) -> Array:
        return self.logits(self.norm_out(x)).astype(jnp.float32)
