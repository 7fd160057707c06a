"""The first stage of Frido (MS-VQGAN): an image is quantized at two scales, the coarse one first.

Fan et al. 2022 (https://arxiv.org/abs/2208.13753, section 3.2). The fine scale is encoded from the features of the
image and from the coarse codes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.models.autoencoder import Decoder, TwoScaleEncoder, attention_levels, check_image_size
from rdm_jax.models.layers import resampled
from rdm_jax.models.vq import code_distances, nearest_codes, uniform_codes

SHARED_BLOCKS = 2  # of the network between the scales


class MultiScaleVQ(nn.Module):
    """Images to latents of two scales, latents to the nearest codes of a codebook for each, and codes to images.

    A latent has the channels of the coarse scale and then those of the fine one, `scale_channels` each, at the fine
    size. `encode` returns it before quantization, as diffusion models see it; `decode` quantizes both scales.

    Attributes:
      ch: channels of level 0 of encoder and decoder.
      ch_mult: the channels of each level of the encoder, in multiples of `ch`; the last one has the coarse scale.
      decoder_ch_mult: the same of the decoder, which has one level less.
      num_res_blocks: blocks of a level; the decoder has one more.
      attn_resolutions: sizes with attention in the encoder, if the image is `resolution` pixels wide.
      decoder_attn_resolutions: the same of the decoder.
      resolution: see `attn_resolutions`.
      scale_channels: of each scale.
      num_codes: of the codebook of the coarse scale and of the fine one.
      in_channels: of an image.
      out_channels: of a decoded image.
      mid_attention: whether there is attention in the middle of encoder and decoder.
      shared_ch: channels of the network between the scales.
      num_groups: of the group norms.
      dropout: in the residual blocks.
      beta: of the quantization loss, see `vq.AutoencoderVQ`.
      legacy: which of its terms `beta` applies to.
      codebook_bound: the largest absolute value of a freshly initialized code; 0 is 1 / the number of codes.
      dtype: what products are computed in.
    """

    ch: int
    ch_mult: tuple[int, ...]
    decoder_ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    decoder_attn_resolutions: tuple[int, ...]
    resolution: int
    scale_channels: int
    num_codes: tuple[int, int]
    in_channels: int = 3
    out_channels: int = 3
    mid_attention: bool = True
    shared_ch: int = 128
    num_groups: int = 32
    dropout: float = 0.0
    beta: float = 0.25
    legacy: bool = True
    codebook_bound: float = 0.0
    dtype: Any = "float32"

    # The numbers that are encoded for each latent: itself.
    encoded: ClassVar[int] = 1
    scales: ClassVar[int] = 2
    last_kernel: ClassVar[str] = "decoder/conv_out/kernel"

    @property
    def embed_dim(self) -> int:
        """Channels of a latent: those of both scales."""
        return 2 * self.scale_channels

    @property
    def downsampling(self) -> int:
        """The factor f between the sizes of images and of the fine scale, which latents have."""
        return 2 ** (len(self.ch_mult) - 2)

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shape and type of the smallest image that it can be called with."""
        side = 2 * self.downsampling
        return (jax.ShapeDtypeStruct((1, side, side, self.in_channels), jnp.float32),)

    def setup(self) -> None:
        """Creates encoder, decoder, codebooks and what lies between the scales."""
        dtype, channels = jnp.dtype(self.dtype), self.scale_channels
        rest = (self.num_groups, self.dropout, dtype)
        down = attention_levels(self.attn_resolutions, self.resolution, len(self.ch_mult))
        up = attention_levels(self.decoder_attn_resolutions, self.resolution, len(self.decoder_ch_mult))
        blocks, middle = self.num_res_blocks, self.mid_attention
        self.encoder = TwoScaleEncoder(self.ch, self.ch_mult, blocks, down, channels, middle, *rest)
        self.decoder = Decoder(self.ch, self.decoder_ch_mult, blocks, up, self.out_channels, middle, *rest)
        self.shared_decoder = Decoder(self.shared_ch, (1,), SHARED_BLOCKS, (False,), channels, True, *rest)
        self.coarse_codebook, self.fine_codebook = (
            self.param(f"{scale}_codebook", uniform_codes(self.codebook_bound), (count, channels))
            for scale, count in zip(("coarse", "fine"), self.num_codes, strict=True)
        )
        self.upsample = nn.ConvTranspose(channels, (4, 4), (2, 2), ((2, 2), (2, 2)), transpose_kernel=True, dtype=dtype)
        self.coarse_quant, self.fine_quant, self.shared_post_quant = (nn.Dense(channels, dtype=dtype) for _ in range(3))
        self.post_quant = nn.Dense(self.embed_dim, dtype=dtype)

    def encode(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h2 w2 e"]:
        """Maps images [b, h, w, c] in [-1, 1] to latents [b, h/f, w/f, embed_dim], float32, before quantization.

        Raises:
          UserError: the coarse scale's factor, 2 f, does not divide the height or the width.
        """
        check_image_size(x.shape, 2 * self.downsampling)
        coarse, fine = self.encoder(x, deterministic)
        coarse = self.coarse_quant(coarse).astype(jnp.float32)
        quantized, _, _ = nearest_codes(coarse, jnp.asarray(self.coarse_codebook), self.beta, self.legacy)
        above = self.shared_post_quant(self.upsample(quantized))
        fine = self.fine_quant(self.shared_decoder(jnp.concatenate([above, fine], axis=-1), deterministic))
        return jnp.concatenate([resampled(coarse, "up"), fine.astype(jnp.float32)], axis=-1)

    def quantize(
        self, h: Float[Array, "b h w e"]
    ) -> tuple[Float[Array, "b h w e"], Int[Array, "b h w 2"], Float[Array, ""]]:
        """Returns the nearest codes of both scales, their indices and the sum of the quantization losses.

        The indices of fine codes begin after those of the coarse ones. The coarse scale is quantized at the fine size:
        codes and means over pixels are those at its own.
        """
        (coarse, first, loss), (fine, second, also) = (
            nearest_codes(scale, codes, self.beta, self.legacy)
            for scale, codes in zip(jnp.split(h, 2, axis=-1), self._codebooks, strict=True)
        )
        indices = jnp.stack([first, second + self.num_codes[0]], axis=-1)
        return jnp.concatenate([coarse, fine], axis=-1), indices, loss + also

    def distances(self, h: Float[Array, "b h w e"]) -> tuple[Float[Array, "n k"], Float[Array, "n k2"]]:
        """Returns the `vq.code_distances` of each codebook."""
        coarse, fine = map(code_distances, jnp.split(h, 2, axis=-1), self._codebooks)
        return coarse, fine

    def decode(
        self, h: Float[Array, "b h w e"], *, quantize: bool = True, deterministic: bool = True
    ) -> Float[Array, "b h2 w2 c"]:
        """Maps latents [b, h, w, embed_dim], quantized first by default, to images [b, f h, f w, c]."""
        if quantize:
            h, _, _ = self.quantize(h)
        coarse, fine = jnp.split(h, 2, axis=-1)
        return self.decoder(self.post_quant(jnp.concatenate([fine, coarse], axis=-1)), deterministic)

    def __call__(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h w d"]:
        """Encodes, quantizes and decodes; for initialization."""
        return self.decode(self.encode(x, deterministic=deterministic), deterministic=deterministic)

    @property
    def _codebooks(self) -> tuple[Array, Array]:
        return jnp.asarray(self.coarse_codebook), jnp.asarray(self.fine_codebook)
