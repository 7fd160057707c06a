"""What the transformer backbones (DiT, U-ViT) have in common: their settings, patches, self-attention and MLP."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.core.checks import at_least_one
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.models.attention import Implementation, attend
from rdm_jax.models.condition import Condition, attention_bias, require_features, require_vector

ContextMode = Literal["cross_attention", "tokens"]


class Block(nn.Module):
    """The settings of a transformer block, whose fifth argument is `deterministic`.

    Attributes:
      heads: the number of heads.
      mlp_width: the hidden channels of the MLP.
      dropout: of each sublayer's output.
      implementation: passed to `attend`.
      dtype: what products are computed in.
    """

    heads: int
    mlp_width: int
    dropout: float = 0.0
    implementation: Implementation = None
    dtype: Any = jnp.float32


class PatchTransformer(nn.Module):
    """The settings of a transformer over the patches of a latent, and the checks of its inputs.

    Attributes:
      in_channels: channels of the latent.
      out_channels: channels of the prediction.
      latent_size: height and width of the latents that it is trained on.
      patch_size: height and width of a patch, which becomes one token; divides `latent_size`.
      width: channels of a token; a multiple of `heads` and of 4.
      depth: the number of blocks.
      heads: the number of heads of every attention.
      context_dim: the size of a context token; 0 takes none.
      context: how context tokens enter: by "cross_attention" in every block, or as "tokens" of the sequence.
      vector_dim: the size of the condition's vector; 0 takes none.
      guidance_dim: the size of the embedding of a guidance scale, which is added to that of the time; 0 takes none.
      mlp_ratio: the hidden channels of an MLP, in units of `width`.
      dropout: of the output of every attention and MLP.
      dtype: what products are computed in ("float32", "bfloat16"); parameters stay in float32.
      remat: recompute blocks in the backward pass instead of storing their activations.
      attention_implementation: passed to `jax.nn.dot_product_attention`.
    """

    in_channels: int
    out_channels: int
    latent_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    context_dim: int = 0
    context: ContextMode = "cross_attention"
    vector_dim: int = 0
    guidance_dim: int = 0
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    dtype: Any = "float32"
    remat: bool = False
    attention_implementation: Implementation = None

    label: ClassVar[str] = "the transformer"

    @property
    def size_multiple(self) -> int:
        """The height and the width of a latent must be multiples of this."""
        return self.patch_size

    @property
    def mlp_width(self) -> int:
        """The hidden channels of an MLP."""
        return round(self.mlp_ratio * self.width)

    @property
    def supports(self) -> frozenset[str]:
        """The names in `models.condition.FEATURES` that are supported with these settings."""
        used = {"token_weights": self.context_dim, "vector": self.vector_dim, "guidance": self.guidance_dim}
        return frozenset(name for name, size in used.items() if size)

    @property
    def smallest_inputs(self) -> tuple[Any, Any, Condition]:
        """Shapes and types of latents, times and a condition for which all parameters are created."""
        side = self.latent_size

        def shape(*sizes: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(sizes, jnp.float32)

        tokens = shape(1, self.smallest_context, self.context_dim) if self.context_dim else None
        vector = shape(1, self.vector_dim) if self.vector_dim else None
        return shape(1, side, side, self.in_channels), shape(1), Condition(tokens, vector=vector)

    @property
    def smallest_context(self) -> int:
        """The smallest number of context tokens above 0."""
        return 1

    def check(self, x: tuple[int, ...], condition: Condition) -> None:
        """Raises UserError unless the settings, a latent [b, h, w, c] and a condition fit together."""
        self._check_settings()
        tokens = condition.tokens
        if tokens is not None and tokens.shape[1] and not self.context_dim:
            raise UserError(
                f"{self.label} of this model takes no context tokens (its context_dim is 0), and the condition has "
                f"{tokens.shape[1]}; use a model that was trained with neighbors or text"
            )
        require_features(self.label, self.supports, condition)
        height, width, channels = x[1:]
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise UserError(
                f"latent size {height}x{width} is not allowed; height and width must be multiples of {self.patch_size}"
            )
        if channels != self.in_channels:
            raise UserError(f"the latent has {channels} channels, {self.label} takes {self.in_channels}")
        if tokens is not None and tokens.shape[2] != self.context_dim:
            raise UserError(f"context tokens have {tokens.shape[2]} numbers, {self.label} takes {self.context_dim}")
        require_vector(self.label, self.vector_dim, condition)

    def _check_settings(self) -> None:
        for name in ("latent_size", "patch_size", "width", "depth", "heads"):
            at_least_one(name, getattr(self, name))
        if self.context not in get_args(ContextMode):
            raise unknown("context mode", str(self.context), get_args(ContextMode))
        if self.latent_size % self.patch_size:
            raise UserError(f"patch_size={self.patch_size} does not divide latent_size={self.latent_size}")
        if self.width % self.heads or self.width % 4:
            raise UserError(f"width={self.width} is not a multiple of heads={self.heads} and of 4")

    def block(self, block_class: type[Block], name: str) -> Block:
        """Returns a block with this network's settings."""
        made = nn.remat(block_class, static_argnums=(5,)) if self.remat else block_class
        dtype = jnp.dtype(self.dtype)
        return made(self.heads, self.mlp_width, self.dropout, self.attention_implementation, dtype, name=name)

    def read_context(self, condition: Condition, batch: int) -> tuple[Array | None, Array | None]:
        """Returns the context tokens [b, n, context_dim] and the bias [b, m or 1, n] of attention to them, or None.

        For cross-attention there is at least one token: keys and values have no bias, so a token of zeros adds nothing,
        and a softmax over no tokens would be NaN.
        """
        if not self.context_dim:
            return None, None
        tokens, weights, dtype = condition.tokens, condition.weights, jnp.dtype(self.dtype)
        if tokens is None or not tokens.shape[1]:
            return jnp.zeros((batch, int(self.context == "cross_attention"), self.context_dim), dtype), None
        return tokens.astype(dtype), None if weights is None else attention_bias(weights, self.patch_size)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values.

    Attributes:
      heads: the number of heads.
      qkv_bias: whether that matrix has a bias.
      kernel_init: of both matrices.
      implementation: passed to `attend`.
      dtype: what products are computed in.
    """

    heads: int
    qkv_bias: bool
    kernel_init: Any
    implementation: Implementation = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], bias: Float[Array, "b #n n"] | None = None) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c]; `bias` is added to the logits of all heads."""
        b, n, c = x.shape
        settings = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        qkv = nn.Dense(3 * c, use_bias=self.qkv_bias, name="qkv", **settings)(x)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, c // self.heads), 2, 0)
        out = attend(q, k, v, self.implementation, bias=bias)
        return nn.Dense(c, name="out", **settings)(out.reshape(b, n, c))


class MLP(nn.Module):
    """Two linear layers with a GELU between them.

    Attributes:
      hidden: channels between them.
      approximate: the GELU's approximation by tanh.
      kernel_init: of both matrices.
      dtype: what products are computed in.
    """

    hidden: int
    approximate: bool
    kernel_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c]."""
        settings = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        h = nn.gelu(nn.Dense(self.hidden, name="up", **settings)(x), approximate=self.approximate)
        return nn.Dense(x.shape[-1], name="down", **settings)(h)


class VectorEmbedding(nn.Module):
    """The linear layer that embeds a condition's vector; for one-hot vectors it is a table of rows.

    Attributes:
      width: channels of the embedding.
      kernel_init: of its matrix.
      dtype: of the result.
      use_bias: whether it has a bias.
    """

    width: int
    kernel_init: Any
    dtype: Any = jnp.float32
    use_bias: bool = False

    @nn.compact
    def __call__(self, vector: Float[Array, "b v"]) -> Float[Array, "b c"]:
        """Maps [b, v] to [b, width]."""
        kernel = self.param("kernel", self.kernel_init, (vector.shape[-1], self.width))
        # In full precision, so that a one-hot vector selects its row exactly on every device.
        product = jnp.matmul(vector.astype(jnp.float32), kernel.astype(jnp.float32), precision="highest")
        if self.use_bias:
            product = product + self.param("bias", nn.initializers.zeros, (self.width,))[None]
        return product.astype(self.dtype)


class PatchEmbedding(nn.Module):
    """The convolution that maps each patch to a token.

    Attributes:
      patch_size: height and width of a patch.
      width: channels of a token.
      kernel_init: of its kernel.
      dtype: what it is computed in.
    """

    patch_size: int
    width: int
    kernel_init: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        """Maps [b, h, w, c] to the tokens of the patches, row by row."""
        size = (self.patch_size, self.patch_size)
        conv = nn.Conv(self.width, size, size, "VALID", kernel_init=self.kernel_init, dtype=self.dtype, name="conv")
        return conv(x).reshape(x.shape[0], -1, self.width)


def unpatchify(tokens: Float[Array, "b n _"], rows: int, patch_size: int) -> Float[Array, "b h w c"]:
    """Returns the image whose patches are tokens, row by row; within a token: rows, columns, channels."""
    b, n, size = tokens.shape
    p, columns = patch_size, n // rows
    patches = tokens.reshape(b, rows, columns, p, p, size // p**2)
    return patches.swapaxes(2, 3).reshape(b, rows * p, columns * p, size // p**2)


def positions(rows: int, columns: int, trained: int, width: int) -> Float[np.ndarray, "n c"]:
    """Returns the sinusoidal positions of patches, row by row: half of the channels for the column, half for the row.

    Each half has sines, then cosines, of the frequencies 10000^(-i / (width / 4)), i < width / 4.

    Args:
      rows: rows of patches.
      columns: columns of patches.
      trained: rows and columns at the size that the network is trained on; places are scaled to [0, trained).
      width: channels, a multiple of 4.
    """
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))

    def embed(places: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n _"]:
        angles = places[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    row, column = np.meshgrid(np.arange(rows) * trained / rows, np.arange(columns) * trained / columns, indexing="ij")
    return np.concatenate([embed(column.ravel()), embed(row.ravel())], axis=1)
