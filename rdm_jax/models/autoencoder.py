"""The KL autoencoder between images and latents, and the encoder and decoder that the VQ autoencoder has too.

`Encoder` and `Decoder` are those of VQGAN (https://arxiv.org/abs/2012.09841) as latent diffusion uses them
(https://arxiv.org/abs/2112.10752, appendix G).
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import PixelAttention
from rdm_jax.models.layers import Conv3x3, Downsample, GroupNorm, ResBlock, Upsample

EPSILON = 1e-6
LOGVAR_RANGE = (-30.0, 20.0)  # beyond it a log-variance is clipped


def attention_levels(attn_resolutions: tuple[int, ...], resolution: int, levels: int) -> tuple[bool, ...]:
    """Returns, for each level, whether it has attention: level i works at `resolution` / 2**i pixels."""
    return tuple(resolution // 2**level in attn_resolutions for level in range(levels))


class Pyramid(nn.Module):
    """The base of encoder and decoder: levels of residual blocks, each at half the size of the one before.

    Attributes:
      ch: channels of level 0, which has the image's size.
      ch_mult: the channels of each level, in multiples of `ch`.
      num_res_blocks: blocks of a level; the decoder has one more.
      attention: for each level, whether its blocks are followed by attention.
      out_channels: of the last convolution.
      mid_attention: whether there is attention between the two blocks of the last level.
      num_groups: of the group norms.
      dropout: in the residual blocks.
      dtype: what products are computed in.
    """

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[bool, ...]
    out_channels: int
    mid_attention: bool = True
    num_groups: int = 32
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def res(self, h: Array, channels: int, name: str, deterministic: bool) -> Array:
        """Applies a residual block of this name to [b, h, w, c], within a compact method."""
        block = ResBlock(channels, self.num_groups, EPSILON, self.dropout, dtype=self.dtype, name=name)
        return block(h, None, deterministic)

    def attend(self, h: Array, name: str) -> Array:
        """Applies an attention block of this name to [b, h, w, c], within a compact method."""
        return PixelAttention(self.num_groups, self.dtype, name=name)(h)

    def middle(self, h: Array, scale: str, deterministic: bool) -> Array:
        """Applies two blocks, and attention between them, to [b, h, w, c]; `scale` begins their names."""
        h = self.res(h, h.shape[-1], f"{scale}mid_res_1", deterministic)
        if self.mid_attention:
            h = self.attend(h, f"{scale}mid_attn_1")
        return self.res(h, h.shape[-1], f"{scale}mid_res_2", deterministic)

    def last(self, h: Array, scale: str = "") -> Array:
        """Applies the last norm and convolution; `scale` begins their names."""
        h = nn.silu(GroupNorm(self.num_groups, EPSILON, self.dtype, name=f"{scale}norm_out")(h))
        return Conv3x3(self.out_channels, dtype=self.dtype, name=f"{scale}conv_out")(h)


class Encoder(Pyramid):
    """Images to features at 1 / 2**(levels - 1) of their size."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], deterministic: bool = True) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] in [-1, 1] to [b, h/f, w/f, out_channels]."""
        return self.last(self.middle(self.levels(x, deterministic)[-1], "", deterministic))

    def levels(self, x: Array, deterministic: bool) -> list[Array]:
        """Returns the output of each level before it is halved."""
        h, outputs = Conv3x3(self.ch, dtype=self.dtype, name="conv_in")(x), []
        for level, mult in enumerate(self.ch_mult):
            for block in range(self.num_res_blocks):
                h = self.res(h, self.ch * mult, f"down_{level}_res_{block}", deterministic)
                if self.attention[level]:
                    h = self.attend(h, f"down_{level}_attn_{block}")
            outputs.append(h)
            if level < len(self.ch_mult) - 1:
                h = Downsample((0, 1), self.dtype, name=f"down_{level}_down")(h)
        return outputs


class TwoScaleEncoder(Encoder):
    """Images to features of the last two levels, each with a middle and a last convolution of its own."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], deterministic: bool = True
    ) -> tuple[Float[Array, "b h2 w2 d"], Float[Array, "b h3 w3 d"]]:
        """Maps [b, h, w, c] in [-1, 1] to [b, h/f, w/f, out_channels], the coarse scale, and twice its size."""
        fine, coarse = self.levels(x, deterministic)[-2:]
        scales = (("coarse_", coarse), ("fine_", fine))
        first, second = (self.last(self.middle(h, scale, deterministic), scale) for scale, h in scales)
        return first, second


class Decoder(Pyramid):
    """Features to images; levels are numbered by resolution (0 has the image's size) and run from the last to 0."""

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"], deterministic: bool = True) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] to [b, f h, f w, out_channels], float32 and not clipped."""
        res = functools.partial(self.res, deterministic=deterministic)
        h = Conv3x3(self.ch * self.ch_mult[-1], dtype=self.dtype, name="conv_in")(z)
        h = self.middle(h, "", deterministic)
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            for block in range(self.num_res_blocks + 1):
                h = res(h, self.ch * mult, f"up_{level}_res_{block}")
                if self.attention[level]:
                    h = self.attend(h, f"up_{level}_attn_{block}")
            if level:
                h = Upsample(self.dtype, name=f"up_{level}_up")(h)
        return self.last(h).astype(jnp.float32)


def check_image_size(shape: tuple[int, ...], downsampling: int) -> None:
    """Raises UserError for images [b, h, w, c] whose height or width `downsampling` does not divide."""
    height, width = shape[1:3]
    if height % downsampling or width % downsampling:
        raise UserError(
            f"image size {height}x{width} is not allowed; height and width must be multiples of {downsampling}"
        )


class Autoencoder(nn.Module):
    """The base of the autoencoders: an encoder and a decoder around the latents.

    `attn_resolutions` are the sizes that have attention if the image is `resolution` pixels wide. The two fields fix
    the levels with attention, whatever the size of an image.
    """

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    resolution: int
    z_channels: int
    embed_dim: int
    in_channels: int = 3
    out_channels: int = 3
    mid_attention: bool = True
    num_groups: int = 32
    dropout: float = 0.0
    dtype: Any = "float32"

    # The numbers that are encoded for each latent: itself, or the parameters of its distribution.
    encoded: ClassVar[int] = 1
    # The scales whose channels a latent holds one after another.
    scales: ClassVar[int] = 1
    # The decoder's last kernel, whose gradients the adversarial loss balances.
    last_kernel: ClassVar[str] = "decoder/conv_out/kernel"

    @property
    def downsampling(self) -> int:
        """The factor f between the sizes of images and latents."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shape and type of the smallest image that it can be called with."""
        side = self.downsampling
        return (jax.ShapeDtypeStruct((1, side, side, self.in_channels), jnp.float32),)

    def setup(self) -> None:
        """Creates encoder and decoder and the layers between them and the latents."""
        dtype = jnp.dtype(self.dtype)
        levels = attention_levels(self.attn_resolutions, self.resolution, len(self.ch_mult))
        shared = (self.ch, self.ch_mult, self.num_res_blocks, levels)
        rest = (self.mid_attention, self.num_groups, self.dropout, dtype)
        self.encoder = Encoder(*shared, self.encoded * self.z_channels, *rest)
        self.decoder = Decoder(*shared, self.out_channels, *rest)
        self.quant = nn.Dense(self.encoded * self.embed_dim, dtype=dtype)
        self.post_quant = nn.Dense(self.z_channels, dtype=dtype)

    def encode(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h2 w2 m"]:
        """Maps images [b, h, w, c] in [-1, 1] to [b, h/f, w/f, m], float32: latents, or the moments of `AutoencoderKL`.

        Raises:
          UserError: f does not divide the height or the width.
        """
        check_image_size(x.shape, self.downsampling)
        return self.quant(self.encoder(x, deterministic)).astype(jnp.float32)


class AutoencoderKL(Autoencoder):
    """Images to a diagonal Gaussian over latents, and latents to images (https://arxiv.org/abs/2112.10752).

    `encode` returns its moments [b, h/f, w/f, 2 embed_dim], means first.
    """

    encoded: ClassVar[int] = 2

    def decode(self, z: Float[Array, "b h w e"], *, deterministic: bool = True) -> Float[Array, "b h2 w2 c"]:
        """Maps latents [b, h, w, embed_dim] to images [b, f h, f w, c], about [-1, 1], not clipped, float32."""
        return self.decoder(self.post_quant(z), deterministic)

    def __call__(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h w d"]:
        """Encodes, and decodes the means; for initialization."""
        mean, _ = split_moments(self.encode(x, deterministic=deterministic))
        return self.decode(mean, deterministic=deterministic)


def split_moments(moments: Float[Array, "b h w m"]) -> tuple[Float[Array, "b h w e"], Float[Array, "b h w e"]]:
    """Returns mean and log-variance, [b, h, w, embed_dim] each, the latter clipped to `LOGVAR_RANGE`."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, *LOGVAR_RANGE)


def sample_moments(moments: Float[Array, "b h w m"], noise: Float[Array, "b h w e"]) -> Float[Array, "b h w e"]:
    """Returns mean + std * noise, with `noise` standard normal [b, h, w, embed_dim]."""
    mean, logvar = split_moments(moments)
    return mean + jnp.exp(0.5 * logvar) * noise


def kl_divergence(moments: Float[Array, "b h w m"]) -> Float[Array, " b"]:
    """Returns KL(N(mean, var) || N(0, 1)) of each image in nats, summed over its latent.

    The closed form is that of https://arxiv.org/abs/1312.6114, appendix B.
    """
    mean, logvar = split_moments(moments)
    return 0.5 * jnp.sum(mean**2 + jnp.exp(logvar) - 1.0 - logvar, axis=(1, 2, 3))
