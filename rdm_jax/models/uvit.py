"""U-ViT: a transformer whose tokens are time, condition and patches, with long skips (https://arxiv.org/abs/2209.12152).

The first half of the blocks keeps its outputs for the second half, as a U-Net does. ASCEND, an asymmetric encoder and
decoder (https://arxiv.org/abs/2212.13771), has more blocks before the middle than after. That paper's abstract is all
that this form of it follows, so it is an experiment.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Real

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import Attention
from rdm_jax.models.condition import Condition
from rdm_jax.models.layers import Conv3x3, LayerNorm, TimeEmbedding
from rdm_jax.models.vit_layers import (
    MLP,
    Block,
    ContextMode,
    PatchEmbedding,
    PatchTransformer,
    SelfAttention,
    VectorEmbedding,
    unpatchify,
)

INIT = nn.initializers.truncated_normal(0.02)


class UViTBlock(Block):
    """Self-attention, cross-attention if there is a context, and MLP, each behind a norm and around a skip."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        skip: Float[Array, "b n c"] | None = None,
        context: Float[Array, "b m d"] | None = None,
        bias: Float[Array, "b _ _"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c].

        Args:
          x: the tokens.
          skip: the output of the block of the first half that this one belongs to.
          context: the context tokens, if there is cross-attention.
          bias: added to the logits of the attention to the context, which is the self-attention if there is no other.
          deterministic: without dropout.
        """
        width, dtype = x.shape[-1], self.dtype
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        if skip is not None:
            both = jnp.concatenate([x, skip], axis=-1)
            x = nn.Dense(width, kernel_init=INIT, dtype=dtype, name="skip")(both)
        attn = SelfAttention(self.heads, False, INIT, self.implementation, dtype, name="attn")
        x = x + drop(attn(LayerNorm(dtype=dtype, name="norm1")(x), bias if context is None else None))
        if context is not None:
            cross = Attention(self.heads, width // self.heads, self.implementation, dtype, name="cross")
            x = x + drop(cross(LayerNorm(dtype=dtype, name="norm_cross")(x), context, bias))
        mlp = MLP(self.mlp_width, False, INIT, dtype, name="mlp")
        return x + drop(mlp(LayerNorm(dtype=dtype, name="norm2")(x)))


class UViT(PatchTransformer):
    """A U-ViT; see `PatchTransformer` for the fields that are not listed here.

    The sequence is [vector, time, context tokens, patches], each where there is one. Positions are learned, for every
    place but those of context tokens, which are a set: they have one learned embedding in common, the bias of their
    projection, and may be any number. Only latents of `latent_size` are supported.

    Attributes:
      depth: the number of blocks without the middle one, even unless there is a `decoder_depth`.
      decoder_depth: of these blocks, how many stand behind the middle one, at most half (ASCEND); None is half. The
        first block's output goes to the last one, the second block's to the last but one, and so on; the blocks before
        the middle one that are left over keep nothing.
      context: see `PatchTransformer`.
      context_positions: the number of context tokens, if each place has a learned position: their order matters then
        (77 in the released text models); 0 for a set.
      time_mlp: whether an MLP embeds the sinusoidal time embedding; otherwise it is the time token itself.
      final_conv: whether a 3x3 convolution follows the last projection.
      first_time: what the network takes for timestep 0; 1 in the released models, which count from 1.
    """

    context: ContextMode = "tokens"
    context_positions: int = 0
    decoder_depth: int | None = None
    time_mlp: bool = False
    final_conv: bool = True
    first_time: int = 0

    label: ClassVar[str] = "the U-ViT"
    hallmark: ClassVar[str] = "pos_embed"
    stages: ClassVar[int] = 1

    @property
    def smallest_context(self) -> int:
        """The smallest number of context tokens above 0."""
        return self.context_positions or 1

    def check(self, x: tuple[int, ...], condition: Condition) -> None:
        """Raises UserError unless the settings, a latent [b, h, w, c] and a condition fit together."""
        super().check(x, condition)
        if self.decoder_depth is None and self.depth % 2:
            raise UserError(
                f"depth={self.depth} is odd; a U-ViT has as many blocks before as behind the middle one, or fewer "
                "behind it by decoder_depth"
            )
        if self.decoder_depth is not None and not 0 <= self.decoder_depth <= self.depth // 2:
            raise UserError(
                f"decoder_depth={self.decoder_depth} is out of range; of depth={self.depth} blocks, 0 to "
                f"{self.depth // 2} stand behind the middle one"
            )
        if self.context_positions and (self.context != "tokens" or not self.context_dim):
            raise UserError(
                f"context_positions={self.context_positions} needs context='tokens' and a context_dim; set it to 0"
            )
        if x[1:3] != (self.latent_size, self.latent_size):
            raise UserError(
                f"latent size {x[1]}x{x[2]} is not allowed; the U-ViT's learned positions are those of "
                f"{self.latent_size}x{self.latent_size}"
            )
        count = 0 if condition.tokens is None else condition.tokens.shape[1]
        if self.context_positions and count != self.context_positions:
            raise UserError(f"the condition has {count} tokens, and this U-ViT takes {self.context_positions} exactly")

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
          x: [b, latent_size, latent_size, in_channels] noisy latents.
          t: [b] times in [0, 1000), integer or continuous.
          condition: its tokens are a set, unless there are `context_positions`, with weights [b, n]. No tokens are the
            same as tokens of zeros for cross-attention, and no tokens in the sequence otherwise. Its vector becomes one
            token.
          deterministic: without dropout; otherwise the "dropout" stream of random keys is needed.

        Raises:
          UserError: a size or the settings do not fit, or the condition needs what this network does not support.
        """
        self.check(x.shape, condition)
        p, dtype = self.patch_size, jnp.dtype(self.dtype)
        context, bias = self.read_context(condition, len(x))
        inside = context if self.context == "tokens" else None
        tokens, before = self._sequence(x, t, condition, inside, dtype)
        patches = (self.latent_size // p) ** 2
        if inside is not None:
            bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (before, patches)))
            context = None
        behind = self.depth // 2 if self.decoder_depth is None else self.decoder_depth
        encoder = [f"in_{i}" for i in range(self.depth - behind)]
        skips: list[Array] = []
        for name in [*encoder, "mid", *(f"out_{i}" for i in range(behind))]:
            skip = skips.pop() if name.startswith("out") else None
            block = self.block(UViTBlock, name)
            tokens = block(tokens, skip, context, bias, deterministic)
            skips += [tokens] if name in encoder[:behind] else []
        tokens = LayerNorm(dtype=dtype, name="norm_out")(tokens)[:, -patches:]
        out = nn.Dense(p * p * self.out_channels, kernel_init=INIT, dtype=dtype, name="out")(tokens)
        image = unpatchify(out, self.latent_size // p, p)
        if self.final_conv:
            image = Conv3x3(self.out_channels, dtype=dtype, name="conv_out")(image)
        return image.astype(jnp.float32)

    def _sequence(
        self, x: Array, t: Array, condition: Condition, context: Array | None, dtype: Any
    ) -> tuple[Array, int]:
        """Returns the sequence of tokens [b, n, width], and how many stand before the context tokens."""
        emb = TimeEmbedding(self.width, self.guidance_dim, dtype, name="time")(t + self.first_time, condition.guidance)
        if self.time_mlp:
            emb = nn.silu(nn.Dense(4 * self.width, kernel_init=INIT, dtype=dtype, name="time_1")(emb))
            emb = nn.Dense(self.width, kernel_init=INIT, dtype=dtype, name="time_2")(emb)
        first = [emb]
        if self.vector_dim:
            first.insert(0, VectorEmbedding(self.width, INIT, dtype, name="vector")(condition.vector))
        patches = PatchEmbedding(self.patch_size, self.width, INIT, dtype, name="patch_embed")(x)
        before, count = len(first), patches.shape[1]
        shape = (1, before + self.context_positions + count, self.width)
        places = self.param("pos_embed", INIT, shape).astype(dtype)
        parts = [jnp.stack(first, axis=1) + places[:, :before], patches + places[:, -count:]]
        if context is not None:
            embedded = nn.Dense(self.width, kernel_init=INIT, dtype=dtype, name="context_embed")(context)
            parts.insert(1, embedded + places[:, before:-count] if self.context_positions else embedded)
        return jnp.concatenate(parts, axis=1), before
