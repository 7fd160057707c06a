"""The U-Net that predicts noise from a noisy latent, a time and a condition.

ADM's network (https://arxiv.org/abs/2105.05233) and the one with the cross-attention of latent diffusion
(https://arxiv.org/abs/2112.10752, section 3.3), as the retrieval-augmented models use it (https://arxiv.org/abs/2204.11824).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Real

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.models.attention import AttentionBlock, Implementation, SpatialTransformer
from rdm_jax.models.condition import (
    LEAST_WEIGHT,
    Condition,
    ImageTokens,
    at_queries,
    attention_bias,
    image_context,
    require_features,
    require_vector,
)
from rdm_jax.models.layers import Conv3x3, Downsample, GroupNorm, Resampling, ResBlock, TimeEmbedding, Upsample
from rdm_jax.models.vit_layers import VectorEmbedding

AttentionKind = Literal["transformer", "block"]


@dataclasses.dataclass(frozen=True)
class BlockInputs:
    """What the blocks of one evaluation share.

    Attributes:
      emb: [b, e] of the time, and of what is added to it.
      context: [b, n, d] tokens; None without.
      weights: of the tokens, as a condition has them.
      paint: of the tokens on pixels, if the condition has some.
      images: of the condition.
      height: of the latents.
      deterministic: without dropout.
      gate: [b, h, w, c] the map of features that gates norms; None without.
    """

    emb: Any
    context: Any
    weights: Any
    paint: Any
    images: ImageTokens | None
    height: int
    deterministic: bool
    gate: Any = None


class PooledContext(nn.Module):
    """The weighted mean of context tokens, embedded by two layers of which the last starts at zero.

    Attributes:
      width: channels of the embedding.
      dtype: what products are computed in.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], weights: Float[Array, "b n"] | Float[Array, "b h w n"] | None
    ) -> Float[Array, "b e"]:
        """Returns the embedding [b, width]; tokens of which none counts are the same as tokens of zeros."""
        tokens = tokens.astype(jnp.float32)
        counts = jnp.ones(tokens.shape[:2]) if weights is None else weights
        counts = counts.reshape(len(tokens), -1, tokens.shape[1]).mean(axis=1)
        mean = jnp.einsum("bn,bnd->bd", counts, tokens) / jnp.maximum(counts.sum(axis=1, keepdims=True), LEAST_WEIGHT)
        h = nn.LayerNorm(dtype=self.dtype, name="norm")(mean)
        h = nn.silu(nn.Dense(self.width, dtype=self.dtype, name="hidden")(h))
        return nn.Dense(self.width, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="out")(h)


class UNet(nn.Module):
    """A U-Net of residual blocks with attention at chosen levels and always in the middle.

    Blocks are numbered through, `in_0` to `in_n` and `out_0` to `out_n`, as in the checkpoints of latent diffusion.

    Attributes:
      in_channels: channels of the latent.
      out_channels: channels of the prediction.
      model_channels: channels at level 0; the time embedding is four times as wide.
      channel_mult: channels of each level, in units of `model_channels`; fractions are allowed.
      num_res_blocks: residual blocks of each level on the way down; one more on the way up.
      attention_resolutions: the downsampling factors (1, 2, 4, ...) at which blocks have attention.
      context_dim: the size of a context token; 0 takes no tokens.
      num_head_channels: channels of one attention head; must divide the channels wherever there is attention.
      num_heads: the number of attention heads, instead of `num_head_channels`: heads then grow with the channels.
      attention: "transformer", with cross-attention to the context (latent diffusion), or "block", self-attention whose
        softmax has the context's tokens too (ADM, GLIDE).
      middle_attention: whether the middle has attention.
      transformer_depth: blocks in each transformer.
      scale_shift: whether the embedding of the time scales and shifts norms instead of being added before them.
      residual_resampling: whether residual blocks halve and double the size, instead of one convolution.
      dropout: the rate within residual blocks.
      num_groups: groups of every GroupNorm; must divide every level's channels.
      condition_channels: of the condition that lies beside the noisy latent; a condition without them has zeros there.
      vector_dim: of the condition's vector, which is added to the embedding of the time; 0 takes none.
      vector_bias: whether the layer that embeds it has a bias.
      vector_layer: whether a layer embeds it; otherwise it is as wide as the embedding of the time (unCLIP).
      guidance_dim: the size of the embedding of a guidance scale, which is added to that of the time; 0 takes none.
      pool_context: whether the mean of the context's tokens is added to the embedding of the time as well, so that it
        reaches every block, also those without attention (Imagen, https://arxiv.org/abs/2205.11487, appendix D.1).
      adapter: whether attention to the context has keys and values for the tokens of images (IP-Adapter).
      dtype: what products are computed in ("float32", "bfloat16"); parameters stay in float32.
      remat: recompute blocks in the backward pass instead of storing their activations.
      attention_implementation: passed to `jax.nn.dot_product_attention`.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    channel_mult: tuple[int | float, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    context_dim: int
    num_head_channels: int | None = None
    num_heads: int | None = None
    attention: AttentionKind = "transformer"
    middle_attention: bool = True
    transformer_depth: int = 1
    scale_shift: bool = False
    residual_resampling: bool = False
    dropout: float = 0.0
    num_groups: int = 32
    condition_channels: int = 0
    vector_dim: int = 0
    vector_bias: bool = False
    vector_layer: bool = True
    guidance_dim: int = 0
    pool_context: bool = False
    adapter: bool = False
    dtype: Any = "float32"
    remat: bool = False
    attention_implementation: Implementation = None

    hallmark: ClassVar[str] = "in_0_conv"
    stages: ClassVar[int] = 1

    @property
    def supports(self) -> frozenset[str]:
        """The names in `models.condition.FEATURES` that are supported."""
        chosen = {
            "token_weights": self.context_dim,
            "spatial_weights": self.context_dim,
            "paint": self.context_dim and self.attention == "transformer",
            "channels": self.condition_channels,
            "vector": self.vector_dim,
            "guidance": self.guidance_dim,
            "images": self.adapter,
        }
        return frozenset({"any_size"} | {name for name in chosen if chosen[name]})

    @property
    def places(self) -> tuple[str, ...]:
        """Where attention may be: the levels of the way down, the middle, and the levels of the way up."""
        levels = range(len(self.channel_mult))
        return (*(f"down_{level}" for level in levels), "mid", *(f"up_{level}" for level in levels))

    @property
    def size_multiple(self) -> int:
        """What the height and width of a latent must be multiples of."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def smallest_inputs(self) -> tuple[Any, ...]:
        """Shapes and types of the smallest inputs: latents, times and a condition."""
        side = self.size_multiple

        def shape(*sizes: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(sizes, jnp.float32)

        tokens = shape(1, 1, self.context_dim) if self.context_dim else None
        vector = shape(1, self.vector_dim) if self.vector_dim else None
        images = ImageTokens(shape(1, 1, 1, self.context_dim), shape(1, 1)) if self.adapter else None
        x = shape(1, side, side, self.in_channels)
        return x, shape(1), Condition(tokens, vector=vector, images=images)

    @property
    def gated(self) -> int:
        """The inner channels of norms that a map of features gates; 0 for group norms."""
        return 0

    def channels(self, level: int) -> int:
        """Returns the channels of a level."""
        return int(self.model_channels * self.channel_mult[level])

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Real[Array, " b"],
        condition: Condition,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b h w o"]:
        """Returns the prediction [b, h, w, out_channels] in float32.

        Args:
          x: [b, h, w, in_channels] noisy latents; h and w multiples of `size_multiple`.
          t: [b] times in [0, 1000), integer or continuous.
          condition: its tokens [b, n, context_dim] are a set of any size; for transformers, no tokens (n = 0) are the
            same as tokens of zeros. Its weights count a token in every attention to the context: 2 as if it were given
            twice, 0 as if it were absent, and any number in between (M-VADER, https://arxiv.org/abs/2212.02936).
            Weights [b, h, w, n] are each pixel's own: coarser levels take their means (eDiff-I's paint-with-words,
            https://arxiv.org/abs/2211.01324, section 4.3, as a weight of the softmax). Its channels [b, h, w,
            condition_channels] are concatenated to the latents. An adapter attends to its images.
          deterministic: without dropout; otherwise the "dropout" stream of random keys is needed.

        Raises:
          UserError: a setting, a size, a channel count or the heads do not fit, or the condition has what the network
            does not take, or lacks the vector that it takes.
        """
        dtype = jnp.dtype(self.dtype)
        x, context, weights = self._inputs(x, condition)
        emb = self._embedding(t, condition, dtype)
        if self.pool_context and context is not None:
            emb = emb + PooledContext(emb.shape[-1], dtype, name="context")(context, weights)
        given = BlockInputs(emb, context, weights, condition.paint, condition.images, x.shape[1], deterministic)
        h = self._levels(Conv3x3(self.channels(0), dtype=dtype, name="in_0_conv")(x), given)
        h = nn.silu(GroupNorm(self.num_groups, 1e-5, dtype, name="norm_out")(h))
        return Conv3x3(self.out_channels, zero_init=True, dtype=dtype, name="conv_out")(h).astype(jnp.float32)

    def _levels(self, h: Array, given: BlockInputs) -> Array:
        """Returns a feature map of level 0 after all levels, down and up."""
        last = len(self.channel_mult) - 1
        skips = [h]
        for level in range(last + 1):
            for _ in range(self.num_res_blocks):
                h = self._res(h, level, f"in_{len(skips)}_res", given)
                h = self._attend_at(h, level, f"in_{len(skips)}_attn", "down", given)
                skips.append(h)
            if level < last:
                h = self._resample(h, level, f"in_{len(skips)}_down", "down", given)
                skips.append(h)

        h = self._res(h, last, "mid_0_res", given)
        h = self._attend(h, "mid_1_attn", "mid", given) if self.middle_attention else h
        h = self._res(h, last, "mid_2_res", given)

        index = 0
        for level in range(last, -1, -1):
            for block in range(self.num_res_blocks + 1):
                h = self._res(jnp.concatenate([h, skips.pop()], axis=-1), level, f"out_{index}_res", given)
                h = self._attend_at(h, level, f"out_{index}_attn", "up", given)
                if level and block == self.num_res_blocks:
                    h = self._resample(h, level, f"out_{index}_up", "up", given)
                index += 1
        return h

    def _res(self, h: Array, level: int, name: str, given: BlockInputs, resample: Resampling = "") -> Array:
        """Returns a feature map after the residual block of this name, with the channels of its level."""
        made = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        settings = self.num_groups, 1e-5, self.dropout, True, jnp.dtype(self.dtype), self.scale_shift, resample
        block = made(self.channels(level), *settings, self.gated, name=name)
        return block(h, given.emb, given.deterministic, given.gate)

    def _resample(self, h: Array, level: int, name: str, how: Literal["down", "up"], given: BlockInputs) -> Array:
        """Returns a feature map at half or twice its size."""
        if self.residual_resampling:
            return self._res(h, level, name, given, how)
        dtype = jnp.dtype(self.dtype)
        return Downsample((1, 1), dtype, name=name)(h) if how == "down" else Upsample(dtype, name=name)(h)

    def _attend_at(self, h: Array, level: int, name: str, way: str, given: BlockInputs) -> Array:
        """Returns a feature map after the attention of its level, if there is any."""
        return self._attend(h, name, f"{way}_{level}", given) if 2**level in self.attention_resolutions else h

    def _attend(self, h: Array, name: str, place: str, given: BlockInputs) -> Array:
        """Returns a feature map after the attention of this name, in one of `places`."""
        size = self.num_head_channels or h.shape[-1] // (self.num_heads or 1)
        implementation, dtype = self.attention_implementation, jnp.dtype(self.dtype)
        factor = given.height // h.shape[1]
        bias = None if given.weights is None else attention_bias(given.weights, factor)
        if self.attention == "block":
            made = nn.remat(AttentionBlock) if self.remat else AttentionBlock
            return made(size, self.num_groups, implementation, dtype, name=name)(h, given.context, bias)
        made = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
        block = made(size, self.transformer_depth, self.num_groups, implementation, dtype, self.gated, name=name)
        images = None if given.images is None else image_context(given.images, factor, self.places.index(place))
        paint = None if given.paint is None else at_queries(given.paint, factor)
        return block(h, given.context, bias, images, paint, given.gate)

    def _embedding(self, t: Array, condition: Condition, dtype: Any) -> Array:
        """Returns the embedding of times, guidance scales and vectors."""
        width = 4 * self.model_channels
        emb = TimeEmbedding(self.model_channels, self.guidance_dim, dtype, name="time")(t, condition.guidance)
        emb = nn.silu(nn.Dense(width, dtype=dtype, name="time_1")(emb))
        emb = nn.Dense(width, dtype=dtype, name="time_2")(emb)
        if not self.vector_dim:
            return emb
        if not self.vector_layer:
            return emb + condition.vector.astype(dtype)
        embed = VectorEmbedding(width, nn.initializers.normal(1.0), dtype, self.vector_bias, name="vector")
        return emb + embed(condition.vector)

    def _inputs(self, x: Array, condition: Condition) -> tuple[Array, Array | None, Array | None]:
        """Returns the latents with the condition's channels, its tokens, and their weights, after all checks."""
        self._check(x.shape, condition)
        if self.condition_channels:
            x = self._beside(x, condition.channels)
        tokens, weights = condition.tokens, condition.weights
        if not self.context_dim:
            return x, None, None
        if tokens is None or tokens.shape[1] == 0:
            if self.attention == "block":
                return x, None, None
            # Keys and values have no bias: a token of zeros adds nothing, and a softmax over nothing would be NaN.
            tokens, weights = jnp.zeros((x.shape[0], 1, self.context_dim)), None
        return x, tokens.astype(jnp.dtype(self.dtype)), weights

    def _beside(self, x: Array, channels: Array | None) -> Array:
        """Returns the latents with the condition's channels; zeros stand for none."""
        shape = (*x.shape[:3], self.condition_channels)
        if channels is None:
            channels = jnp.zeros(shape, x.dtype)
        if channels.shape != shape:
            raise UserError(f"the condition's channels have the shape {channels.shape}, and the U-Net takes {shape}")
        return jnp.concatenate([x, channels.astype(x.dtype)], axis=-1)

    def _check(self, x: tuple[int, ...], condition: Condition) -> None:
        """Raises UserError unless the settings, a latent [b, h, w, c] and a condition fit together."""
        self._check_settings()
        require_features("the U-Net", self.supports, condition)
        height, width, channels = x[1:]
        multiple = self.size_multiple
        if height % multiple or width % multiple or not height or not width:
            raise UserError(
                f"latent size {height}x{width} is not allowed; height and width must be multiples of {multiple}"
            )
        if channels != self.in_channels:
            raise UserError(f"the latent has {channels} channels, the U-Net takes {self.in_channels}")
        require_vector("the U-Net", self.vector_dim, condition)
        tokens = condition.tokens
        if tokens is not None and tokens.shape[1] and tokens.shape[2] != self.context_dim:
            raise UserError(f"context tokens have {tokens.shape[2]} numbers, the U-Net takes {self.context_dim}")

    def _check_settings(self) -> None:
        if self.attention not in get_args(AttentionKind):
            raise unknown("attention", str(self.attention), get_args(AttentionKind))
        if self.attention == "transformer" and not self.context_dim:
            raise UserError("a U-Net without context tokens (context_dim=0) has no transformers; set attention='block'")
        if self.pool_context and self.attention == "block":
            raise UserError("pool_context needs cross-attention; set attention='transformer', or pool_context=False")
        if self.attention == "block" and self.adapter:
            raise UserError("an adapter needs cross-attention; set attention='transformer', or adapter=False")
        if self.vector_dim and not self.vector_layer and self.vector_dim != 4 * self.model_channels:
            raise UserError(
                f"vector_dim={self.vector_dim} is not that of the embedding of the time, {4 * self.model_channels}; "
                "set it, or vector_layer=True"
            )
        self._check_heads()

    def _check_heads(self) -> None:
        count = len(self.channel_mult)
        levels = [level for level in range(count) if 2**level in self.attention_resolutions]
        levels += [count - 1] * self.middle_attention
        if not levels:
            return
        given = {"num_head_channels": self.num_head_channels or 0, "num_heads": self.num_heads or 0}
        positive = [(name, divisor) for name, divisor in given.items() if divisor > 0]
        if len(positive) != 1:
            raise UserError(f"the U-Net's heads are {given}; give one of the two")
        ((name, divisor),) = positive
        for width in sorted({self.channels(level) for level in levels}):
            if width % divisor:
                raise UserError(
                    f"{name}={divisor} does not divide {width} channels; "
                    "choose a divisor of the channels of every level with attention"
                )
