"""DiT: a transformer over latent patches with adaptive layer norm (https://arxiv.org/abs/2212.09748).

The released networks are conditioned on a class. Here context tokens enter as well, by cross-attention between
self-attention and MLP (as in PixArt-alpha, https://arxiv.org/abs/2310.00426) or as tokens of the sequence (the paper's
"in-context conditioning", section 3.2). SiT is the same network along the path of a stochastic interpolant.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Real

from rdm_jax.core.errors import unknown
from rdm_jax.models.attention import Attention
from rdm_jax.models.condition import Condition
from rdm_jax.models.layers import TimeEmbedding
from rdm_jax.models.vit_layers import (
    MLP,
    Block,
    PatchEmbedding,
    PatchTransformer,
    SelfAttention,
    VectorEmbedding,
    positions,
    unpatchify,
)

PathName = Literal["", "linear", "gvp", "vp"]
TIMES = 1000  # of the schedule, whose fraction a path's time is
FREQUENCIES = 256  # of the sinusoidal time embedding
XAVIER = nn.initializers.xavier_uniform()
SMALL = nn.initializers.normal(0.02)
ZEROS = nn.initializers.zeros
# A patch counts as one input vector, where XAVIER would count every pixel as another output too.
PATCHES = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1, 2), out_axis=3)


class DiTBlock(Block):
    """Self-attention, cross-attention if there is a context, and MLP, each with a shift, a scale and a gate.

    All gates are zero at initialization: the block starts as the identity (adaLN-zero, section 3.2 of the paper).
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        c: Float[Array, "b c"],
        context: Float[Array, "b m d"] | None = None,
        bias: Float[Array, "b _ _"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c].

        Args:
          x: the tokens.
          c: the embedding of time and vector.
          context: the context tokens, if there is cross-attention.
          bias: added to the logits of the attention to the context, which is the self-attention if there is no other.
          deterministic: without dropout.
        """
        width = x.shape[-1]
        attn = SelfAttention(self.heads, True, XAVIER, self.implementation, self.dtype, name="attn")
        mlp = MLP(self.mlp_width, True, XAVIER, self.dtype, name="mlp")
        parts = 6 if context is None else 9
        modulation = nn.Dense(parts * width, kernel_init=ZEROS, dtype=self.dtype, name="modulation")(nn.silu(c))
        settings = jnp.split(modulation[:, None, :], parts, axis=-1)

        def add(x: Array, first: int, sublayer: Any, *inputs: Any) -> Array:
            """Returns x + gate * sublayer(norm(x) * (1 + scale) + shift)."""
            shift, scale, gate = settings[first : first + 3]
            out = sublayer(modulate(x, shift, scale, self.dtype), *inputs)
            return x + gate * nn.Dropout(self.dropout)(out, deterministic=deterministic)

        if context is None:
            x = add(x, 0, attn, bias)
        else:
            cross = Attention(self.heads, width // self.heads, self.implementation, self.dtype, name="cross")
            x = add(add(x, 0, attn), 6, cross, context, bias)
        return add(x, 3, mlp)


class DiT(PatchTransformer):
    """A DiT; see `PatchTransformer` for its fields.

    The condition's vector is embedded and added to the time embedding; for the released class models it is one-hot,
    [b, classes + 1], the last entry for no class.

    Latents of another size than `latent_size` are supported: the sinusoidal positions are computed for any number of
    patches, scaled to the range that they have at `latent_size`.

    Attributes:
      path: that of a stochastic interpolant (SiT, https://arxiv.org/abs/2401.08740), in whose coordinates the network
        takes its input: the time as s = 1 - (t + 1/2) / 1000, from 0 at noise to 1 at the image, and on the "linear"
        path latents of variance s^2 + (1 - s)^2; "" takes t and latents as they are.
    """

    path: PathName = ""

    label: ClassVar[str] = "the DiT"
    hallmark: ClassVar[str] = "modulation_out"
    stages: ClassVar[int] = 1

    @property
    def supports(self) -> frozenset[str]:
        """The names in `models.condition.FEATURES` that are supported with these settings."""
        by_region = {"spatial_weights"} if self.context_dim and self.context == "cross_attention" else set()
        return super().supports | {"any_size"} | by_region

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
          x: [b, h, w, in_channels] noisy latents; h and w multiples of `patch_size`.
          t: [b] times in [0, 1000), integer or continuous.
          condition: its tokens are a set, with weights [b, n] or, for cross-attention, [b, h, w, n]. No tokens are the
            same as tokens of zeros for cross-attention, and no tokens in the sequence otherwise.
          deterministic: without dropout; otherwise the "dropout" stream of random keys is needed.

        Raises:
          UserError: a size or the settings do not fit, or the condition needs what this network does not support.
        """
        self.check(x.shape, condition)
        x, t = self._on_path(x, t)
        p, dtype = self.patch_size, jnp.dtype(self.dtype)
        rows, columns = x.shape[1] // p, x.shape[2] // p
        c = self._embed(t, condition, dtype)
        tokens = PatchEmbedding(p, self.width, PATCHES, dtype, name="patch_embed")(x)
        tokens = tokens + jnp.asarray(positions(rows, columns, self.latent_size // p, self.width), dtype)[None]
        context, bias = self.read_context(condition, len(x))
        if context is not None and self.context == "tokens":
            embedded = nn.Dense(self.width, kernel_init=XAVIER, dtype=dtype, name="context_embed")(context)
            tokens = jnp.concatenate([tokens, embedded], axis=1)
            bias = None if bias is None else jnp.pad(bias, ((0, 0), (0, 0), (rows * columns, 0)))
            context = None
        for i in range(self.depth):
            block = self.block(DiTBlock, f"block_{i}")
            tokens = block(tokens, c, context, bias, deterministic)
        tokens = tokens[:, : rows * columns]
        modulation = nn.Dense(2 * self.width, kernel_init=ZEROS, dtype=dtype, name="modulation_out")(nn.silu(c))
        shift, scale = jnp.split(modulation[:, None, :], 2, axis=-1)
        tokens = modulate(tokens, shift, scale, dtype)
        patches = nn.Dense(p * p * self.out_channels, kernel_init=ZEROS, dtype=dtype, name="out")(tokens)
        return unpatchify(patches, rows, p).astype(jnp.float32)

    def check(self, x: tuple[int, ...], condition: Condition) -> None:
        """Raises UserError unless the settings, a latent [b, h, w, c] and a condition fit together."""
        super().check(x, condition)
        if self.path not in get_args(PathName):
            raise unknown("path", str(self.path), get_args(PathName))

    def _on_path(self, x: Array, t: Array) -> tuple[Array, Array]:
        """Returns variance-preserving latents and times in the coordinates of the path, if there is one."""
        if not self.path:
            return x, t
        s = 1.0 - (t.astype(jnp.float32) + 0.5) / TIMES
        if self.path == "linear":
            x = x * jnp.sqrt(jnp.square(s) + jnp.square(1.0 - s)).astype(x.dtype)[:, None, None, None]
        return x, s

    def _embed(self, t: Array, condition: Condition, dtype: Any) -> Array:
        """Returns the embedding [b, width] of times, guidance scales and vectors."""
        emb = TimeEmbedding(FREQUENCIES, self.guidance_dim, dtype, name="time")(t, condition.guidance)
        emb = nn.silu(nn.Dense(self.width, kernel_init=SMALL, dtype=dtype, name="time_1")(emb))
        emb = nn.Dense(self.width, kernel_init=SMALL, dtype=dtype, name="time_2")(emb)
        if self.vector_dim:
            emb = emb + VectorEmbedding(self.width, SMALL, dtype, name="vector")(condition.vector)
        return emb


def modulate(
    x: Float[Array, "b n c"], shift: Float[Array, "b 1 c"], scale: Float[Array, "b 1 c"], dtype: Any
) -> Float[Array, "b n c"]:
    """Returns norm(x) (1 + scale) + shift, where the layer norm has no parameters of its own (epsilon 1e-6)."""
    x = x.astype(jnp.float32)
    centered = x - x.mean(axis=-1, keepdims=True)
    normed = centered * jnp.reciprocal(jnp.sqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + 1e-6))
    return normed.astype(dtype) * (1 + scale) + shift
