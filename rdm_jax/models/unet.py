"""The U-Net that predicts noise from a noisy latent, a time and a set of context tokens.

ADM's network (https://arxiv.org/abs/2105.05233) with the cross-attention of latent diffusion
(https://arxiv.org/abs/2112.10752, section 3.3), as the retrieval-augmented models use it (https://arxiv.org/abs/2204.11824).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Real

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import SpatialTransformer
from rdm_jax.models.condition import Condition, ImageTokens, attention_bias, image_context, require_features
from rdm_jax.models.layers import Conv3x3, Downsample, GroupNorm, ResBlock, TimeEmbedding, Upsample


class UNet(nn.Module):
    """A U-Net of residual blocks with transformers at chosen levels and always one in the middle.

    Blocks are numbered through, `in_0` to `in_n` and `out_0` to `out_n`, as in the checkpoints of latent diffusion.

    Attributes:
      in_channels: channels of the latent.
      out_channels: channels of the prediction.
      model_channels: channels at level 0; the time embedding is four times as wide.
      channel_mult: channels of each level, in units of `model_channels`.
      num_res_blocks: residual blocks of each level on the way down; one more on the way up.
      attention_resolutions: the downsampling factors (1, 2, 4, ...) at which blocks have a transformer.
      context_dim: the size of a context token.
      num_head_channels: channels of one attention head; must divide the channels wherever there is attention.
      num_heads: the number of attention heads, instead of `num_head_channels`: heads then grow with the channels.
      transformer_depth: blocks in each transformer.
      dropout: the rate within residual blocks.
      num_groups: groups of every GroupNorm; must divide every level's channels.
      condition_channels: of the condition that lies beside the noisy latent; a condition without them has zeros there.
      guidance_dim: the size of the embedding of a guidance scale, which is added to that of the time; 0 takes none.
      adapter: whether attention to the context has keys and values for the tokens of images (IP-Adapter).
      dtype: what products are computed in ("float32", "bfloat16"); parameters stay in float32.
      remat: recompute blocks in the backward pass instead of storing their activations.
      attention_implementation: passed to `jax.nn.dot_product_attention`.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    context_dim: int
    num_head_channels: int | None = None
    num_heads: int | None = None
    transformer_depth: int = 1
    dropout: float = 0.0
    num_groups: int = 32
    condition_channels: int = 0
    guidance_dim: int = 0
    adapter: bool = False
    dtype: Any = "float32"
    remat: bool = False
    attention_implementation: Literal["xla", "cudnn"] | None = None

    hallmark: ClassVar[str] = "in_0_conv"

    @property
    def supports(self) -> frozenset[str]:
        """The names in `models.condition.FEATURES` that are supported."""
        chosen = {"channels": self.condition_channels, "guidance": self.guidance_dim, "images": self.adapter}
        return frozenset({"token_weights", "spatial_weights", "any_size"} | {name for name in chosen if chosen[name]})

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
        shapes = (1, side, side, self.in_channels), (1,), (1, 1, self.context_dim), (1, 1, 1, self.context_dim), (1, 1)
        x, t, tokens, images, scales = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        return x, t, Condition(tokens, images=ImageTokens(images, scales) if self.adapter else None)

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
          condition: its tokens [b, n, context_dim] are a set of any size; no tokens (n = 0) are the same as tokens of
            zeros. Its weights count a token in every attention to the context: 2 as if it were given twice, 0 as if it
            were absent, and any number in between (M-VADER, https://arxiv.org/abs/2212.02936). Weights [b, h, w, n]
            are each pixel's own: coarser levels take their means (eDiff-I's paint-with-words,
            https://arxiv.org/abs/2211.01324, section 4.3, as a weight of the softmax). Its channels [b, h, w,
            condition_channels] are concatenated to the latents. An adapter attends to its images.
          deterministic: without dropout; otherwise the "dropout" stream of random keys is needed.

        Raises:
          UserError: a size, a channel count or the heads do not fit, or the condition has a vector, or channels that
            the network does not take.
        """
        dtype = jnp.dtype(self.dtype)
        x, context, weights = self._inputs(x, condition)
        transform = nn.remat if self.remat else lambda module, **_: module
        res_class = transform(ResBlock, static_argnums=(3,))
        attention_class = transform(SpatialTransformer)
        context = context.astype(dtype)
        emb = self._time(t, condition.guidance, dtype)

        def res(h: Array, level: int, name: str) -> Array:
            """Applies a residual block of this name, with the channels of its level, to a feature map."""
            channels = self.model_channels * self.channel_mult[level]
            block = res_class(channels, self.num_groups, 1e-5, self.dropout, True, dtype, name=name)
            return block(h, emb, deterministic)

        def attend(h: Array, name: str, place: str) -> Array:
            """Applies a transformer of this name, in one of `places`, to a feature map."""
            block = attention_class(
                self.num_head_channels or h.shape[-1] // (self.num_heads or 1),
                self.transformer_depth,
                self.num_groups,
                self.attention_implementation,
                dtype,
                name=name,
            )
            factor = x.shape[1] // h.shape[1]
            bias = None if weights is None else attention_bias(weights, factor)
            images = (
                None if condition.images is None else image_context(condition.images, factor, self.places.index(place))
            )
            return block(h, context, bias, images)

        last = len(self.channel_mult) - 1
        h = Conv3x3(self.model_channels, dtype=dtype, name="in_0_conv")(x)
        skips = [h]
        for level in range(last + 1):
            for _ in range(self.num_res_blocks):
                h = res(h, level, f"in_{len(skips)}_res")
                if 2**level in self.attention_resolutions:
                    h = attend(h, f"in_{len(skips)}_attn", f"down_{level}")
                skips.append(h)
            if level < last:
                h = Downsample((1, 1), dtype, name=f"in_{len(skips)}_down")(h)
                skips.append(h)

        h = res(h, last, "mid_0_res")
        h = attend(h, "mid_1_attn", "mid")
        h = res(h, last, "mid_2_res")

        index = 0
        for level in range(last, -1, -1):
            for block in range(self.num_res_blocks + 1):
                h = res(jnp.concatenate([h, skips.pop()], axis=-1), level, f"out_{index}_res")
                if 2**level in self.attention_resolutions:
                    h = attend(h, f"out_{index}_attn", f"up_{level}")
                if level and block == self.num_res_blocks:
                    h = Upsample(dtype, name=f"out_{index}_up")(h)
                index += 1

        h = nn.silu(GroupNorm(self.num_groups, 1e-5, dtype, name="norm_out")(h))
        return Conv3x3(self.out_channels, zero_init=True, dtype=dtype, name="conv_out")(h).astype(jnp.float32)

    def _time(self, t: Array, guidance: Array | None, dtype: Any) -> Array:
        """Returns the embedding of times and guidance scales."""
        emb = TimeEmbedding(self.model_channels, self.guidance_dim, dtype, name="time")(t, guidance)
        emb = nn.silu(nn.Dense(4 * self.model_channels, dtype=dtype, name="time_1")(emb))
        return nn.Dense(4 * self.model_channels, dtype=dtype, name="time_2")(emb)

    def _inputs(self, x: Array, condition: Condition) -> tuple[Array, Array, Array | None]:
        """Returns the latents with the condition's channels, its tokens, and their weights, after all checks."""
        require_features("the U-Net", self.supports, condition)
        context, weights = condition.tokens, condition.weights
        self._check(x.shape, context.shape)
        if self.condition_channels:
            x = self._beside(x, condition.channels)
        if context.shape[1] == 0:
            # Keys and values have no bias: a token of zeros adds nothing, and a softmax over nothing would be NaN.
            context, weights = jnp.zeros((context.shape[0], 1, context.shape[2]), context.dtype), None
        return x, context, weights

    def _beside(self, x: Array, channels: Array | None) -> Array:
        """Returns the latents with the condition's channels; zeros stand for none."""
        shape = (*x.shape[:3], self.condition_channels)
        if channels is None:
            channels = jnp.zeros(shape, x.dtype)
        if channels.shape != shape:
            raise UserError(f"the condition's channels have the shape {channels.shape}, and the U-Net takes {shape}")
        return jnp.concatenate([x, channels.astype(x.dtype)], axis=-1)

    def _check(self, x: tuple[int, ...], context: tuple[int, ...]) -> None:
        height, width, channels = x[1:]
        multiple = self.size_multiple
        if height % multiple or width % multiple or not height or not width:
            raise UserError(
                f"latent size {height}x{width} is not allowed; height and width must be multiples of {multiple}"
            )
        if channels != self.in_channels:
            raise UserError(f"the latent has {channels} channels, the U-Net takes {self.in_channels}")
        if context[2] != self.context_dim:
            raise UserError(f"context tokens have {context[2]} numbers, the U-Net takes {self.context_dim}")
        self._check_heads()

    def _check_heads(self) -> None:
        given = {"num_head_channels": self.num_head_channels or 0, "num_heads": self.num_heads or 0}
        positive = [(name, divisor) for name, divisor in given.items() if divisor > 0]
        if len(positive) != 1:
            raise UserError(f"the U-Net's heads are {given}; give one of the two")
        ((name, divisor),) = positive
        levels = [m for i, m in enumerate(self.channel_mult) if 2**i in self.attention_resolutions]
        for width in sorted({self.model_channels * mult for mult in (*levels, self.channel_mult[-1])}):
            if width % divisor:
                raise UserError(
                    f"{name}={divisor} does not divide {width} channels; "
                    "choose a divisor of the channels of every level with attention"
                )
