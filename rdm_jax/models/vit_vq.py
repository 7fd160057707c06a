"""The first stage of ViT-VQGAN (https://arxiv.org/abs/2110.04627): transformers over patches, and cosine codes.

Latents have few channels (factorized codes), and latents and codes are compared at length 1 (section 3.2). A residual
quantizer adds up several codes of the one codebook, each of what those before it leave
(https://arxiv.org/abs/2203.01941, section 3.1).
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import Attention
from rdm_jax.models.autoencoder import check_image_size
from rdm_jax.models.layers import LayerNorm
from rdm_jax.models.vit_layers import PatchEmbedding, positions
from rdm_jax.models.vq import code_distances, nearest_codes

SMALLEST_LENGTH = 1e-12  # of a vector that is scaled to length 1


class VectorBlock(nn.Module):
    """Self-attention and two linear layers with a hyperbolic tangent between them, both pre-norm residual layers.

    Attributes:
      heads: the number of heads.
      head_channels: the channels of a head.
      mlp_width: the channels between the linear layers.
      dtype: what products are computed in.
    """

    heads: int
    head_channels: int
    mlp_width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c]."""
        h = LayerNorm(dtype=self.dtype, name="norm1")(x)
        x = x + Attention(self.heads, self.head_channels, None, self.dtype, name="attn")(h, h)
        h = nn.Dense(self.mlp_width, dtype=self.dtype, name="up")(LayerNorm(dtype=self.dtype, name="norm2")(x))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(jnp.tanh(h))


class PatchBlocks(nn.Module):
    """The base of encoder and decoder: blocks over the patches of an image, whose positions are fixed sinusoids.

    Attributes:
      patch_size: height and width of a patch, in pixels.
      trained: rows and columns of patches at the size that it is trained on.
      width: the channels of a patch, a multiple of 4.
      depth: the number of blocks.
      heads: of each block.
      head_channels: of each head.
      mlp_width: of each block.
      dtype: what products are computed in.
    """

    patch_size: int
    trained: int
    width: int
    depth: int
    heads: int
    head_channels: int
    mlp_width: int
    dtype: Any = jnp.float32

    def blocks(self, tokens: Array, rows: int) -> Array:
        """Applies the blocks and the last norm to tokens [b, n, c], row by row, within a compact method."""
        table = positions(rows, tokens.shape[1] // rows, self.trained, self.width)
        x = tokens + jnp.asarray(table, self.dtype)[None]
        for i in range(self.depth):
            x = VectorBlock(self.heads, self.head_channels, self.mlp_width, self.dtype, name=f"block_{i}")(x)
        return LayerNorm(dtype=self.dtype, name="norm_out")(x)


class PatchesEncoder(PatchBlocks):
    """Images to features of their patches."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] to [b, h/f, w/f, width]."""
        b, rows = x.shape[0], x.shape[1] // self.patch_size
        init = nn.initializers.xavier_uniform()
        tokens = PatchEmbedding(self.patch_size, self.width, init, self.dtype, name="patches")(x.astype(self.dtype))
        return self.blocks(tokens, rows).reshape(b, rows, -1, self.width)


class PatchesDecoder(PatchBlocks):
    """Features of patches to images.

    Attributes:
      out_channels: of an image.
    """

    out_channels: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, width] to [b, f h, f w, out_channels], float32 and not clipped."""
        b, rows, columns, _ = x.shape
        h = self.blocks(x.reshape(b, rows * columns, -1), rows).reshape(x.shape)
        size = (self.patch_size, self.patch_size)
        last = nn.ConvTranspose(
            self.out_channels, size, size, "VALID", transpose_kernel=True, dtype=self.dtype, name="to_pixels"
        )
        return last(h).astype(jnp.float32)


class ViTVQ(nn.Module):
    """Images to latents, latents to the nearest codes of a codebook by their cosine, and codes to images.

    `encode` returns latents [b, h/f, w/f, embed_dim] of any length before quantization; `decode` quantizes. Encoder and
    decoder see pixels in [0, 1]; images are in [-1, 1].

    Attributes:
      resolution: height and width of the images that it is trained on; at other sizes the positions are stretched.
      patch_size: height and width of a patch, which is the factor f.
      width: the channels of the encoder, a multiple of 4.
      depth: blocks of the encoder.
      heads: of the encoder's blocks.
      mlp_width: hidden channels of the encoder's blocks.
      decoder_width: as `width`, of the decoder.
      decoder_depth: as `depth`.
      decoder_heads: as `heads`.
      decoder_mlp_width: as `mlp_width`.
      num_codes: of the codebook.
      embed_dim: channels of a latent and of a code.
      levels: codes of each latent; above 1 the quantizer is a residual one.
      head_channels: of every attention head.
      in_channels: of an image.
      out_channels: of a decoded image.
      beta: the weight of the encoder's term in the quantization loss (https://arxiv.org/abs/1711.00937, equation 3).
      dtype: what products are computed in.
    """

    resolution: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    decoder_mlp_width: int
    num_codes: int
    embed_dim: int = 32
    levels: int = 1
    head_channels: int = 64
    in_channels: int = 3
    out_channels: int = 3
    beta: float = 0.25
    dtype: Any = "float32"

    encoded: ClassVar[int] = 1
    scales: ClassVar[int] = 1
    last_kernel: ClassVar[str] = "decoder/to_pixels/kernel"

    @property
    def downsampling(self) -> int:
        """The factor f between the sizes of images and latents."""
        return self.patch_size

    @property
    def code_shape(self) -> tuple[int, ...]:
        """The shape of the codes of one latent: () for one code, (levels,) of a residual quantizer."""
        return () if self.levels == 1 else (self.levels,)

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shape and type of the smallest image that it can be called with."""
        return (jax.ShapeDtypeStruct((1, self.patch_size, self.patch_size, self.in_channels), jnp.float32),)

    def setup(self) -> None:
        """Creates encoder, decoder, the layers between them and the latents, and the codebook."""
        if self.resolution % self.patch_size:
            raise UserError(
                f"patch_size={self.patch_size} does not divide resolution={self.resolution}; choose a divisor"
            )
        for name in ("width", "decoder_width"):
            if getattr(self, name) % 4:
                raise UserError(f"{name}={getattr(self, name)} is not a multiple of 4, as the positions need; give one")
        dtype, grid = jnp.dtype(self.dtype), (self.patch_size, self.resolution // self.patch_size)
        own = (self.width, self.depth, self.heads, self.head_channels, self.mlp_width)
        other = (self.decoder_width, self.decoder_depth, self.decoder_heads)
        rest = (self.head_channels, self.decoder_mlp_width, dtype)
        self.encoder = PatchesEncoder(*grid, *own, dtype)
        self.decoder = PatchesDecoder(*grid, *other, *rest, out_channels=self.out_channels)
        self.quant = nn.Dense(self.embed_dim, dtype=dtype)
        self.post_quant = nn.Dense(self.decoder_width, dtype=dtype)
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), (self.num_codes, self.embed_dim))

    def encode(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h2 w2 e"]:
        """Maps images [b, h, w, c] in [-1, 1] to latents [b, h/f, w/f, embed_dim], float32.

        There is no dropout, which `deterministic` would be for.

        Raises:
          UserError: f does not divide the height or the width.
        """
        check_image_size(x.shape, self.patch_size)
        return self.quant(self.encoder((x + 1.0) / 2.0)).astype(jnp.float32)

    def quantize(
        self, h: Float[Array, "b h w e"]
    ) -> tuple[Float[Array, "b h w e"], Int[Array, "..."], Float[Array, ""]]:
        """Returns the nearest codes [b, h, w, embed_dim], their indices and the quantization loss.

        The codes have length 1, or are the sum of `levels` such codes, each the nearest to what those before it leave;
        the loss is the mean over the levels. The codes pass their gradient straight through to `h` as it is; the
        codebook learns from the loss alone. In a residual quantizer the encoder does not, as in the published program.

        Returns:
          codes, their indices [b, h, w] or [b, h, w, levels], and the loss.
        """
        levels = self._levels(h)
        codes = sum((code for _, _, code, _ in levels), jnp.zeros(()))
        indices = jnp.stack([index for _, index, _, _ in levels], axis=-1).reshape(*h.shape[:3], *self.code_shape)
        loss = sum((loss for _, _, _, loss in levels), jnp.zeros(())) / self.levels
        return h + jax.lax.stop_gradient(codes - h), indices, loss

    def distances(self, h: Float[Array, "b h w e"]) -> tuple[Float[Array, "n k"], ...]:
        """Returns the `vq.code_distances` of each level, between vectors of length 1."""
        table = normalized(jnp.asarray(self.codebook))
        return tuple(code_distances(rest, table) for rest, _, _, _ in self._levels(h))

    def _levels(self, h: Array) -> list[tuple[Array, Array, Array, Array]]:
        """Returns of each level what is quantized, at length 1, the index and the vector of its code, and the loss."""
        table, found = normalized(jnp.asarray(self.codebook)), []
        rest = h if self.levels == 1 else jax.lax.stop_gradient(h)
        for _ in range(self.levels):
            own = normalized(rest)
            _, index, loss = nearest_codes(own, table, self.beta, legacy=False)
            found.append((own, index, table[index], loss))
            rest = rest - table[index]
        return found

    def decode(
        self, h: Float[Array, "b h w e"], *, quantize: bool = True, deterministic: bool = True
    ) -> Float[Array, "b h2 w2 c"]:
        """Maps latents [b, h, w, embed_dim], quantized first by default, to images [b, f h, f w, c]."""
        if quantize:
            h, _, _ = self.quantize(h)
        return 2.0 * self.decoder(self.post_quant(h)) - 1.0

    def codes(self, x: Float[Array, "b h w c"]) -> Int[Array, "..."]:
        """Maps images [b, h, w, c] in [-1, 1] to the indices of their codes [b, h/f, w/f, ...]."""
        return self.quantize(self.encode(x))[1]

    def decode_codes(self, indices: Int[Array, "..."]) -> Float[Array, "b h2 w2 c"]:
        """Maps indices of codes [b, h, w, ...] to images [b, f h, f w, c], about [-1, 1], not clipped."""
        codes = normalized(jnp.asarray(self.codebook))[indices]
        return self.decode(codes if self.levels == 1 else codes.sum(axis=3), quantize=False)

    def __call__(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h w d"]:
        """Encodes, quantizes and decodes; for initialization."""
        return self.decode(self.encode(x))


def normalized(vectors: Float[Array, "*any e"]) -> Float[Array, "*any e"]:
    """Returns vectors at length 1; zeros stay zeros, and have no gradient."""
    squared = jnp.sum(vectors**2, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, SMALLEST_LENGTH**2))
