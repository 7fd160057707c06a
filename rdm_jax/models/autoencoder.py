"""The KL autoencoder between images and latents, and the encoder and decoder it shares with the VQ one.

`Encoder` and `Decoder` are those of VQGAN (https://arxiv.org/abs/2012.09841) as latent diffusion uses them
(https://arxiv.org/abs/2112.10752, appendix G).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import PixelAttention
from rdm_jax.models.layers import Downsample, GroupNorm, ResBlock, Upsample, conv3x3

EPSILON = 1e-6


def attention_levels(attn_resolutions: tuple[int, ...], resolution: int, levels: int) -> tuple[bool, ...]:
    """Returns, for each level, whether it has attention: level i works at `resolution` / 2**i pixels."""
    return tuple(resolution // 2**level in attn_resolutions for level in range(levels))


class Encoder(nn.Module):
    """Images to features at 1 / 2**(levels - 1) of their size."""

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[bool, ...]
    out_channels: int
    mid_attention: bool = True
    num_groups: int = 32
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], deterministic: bool = True) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] in [-1, 1] to [b, h/f, w/f, out_channels]."""

        def res(h: Array, channels: int, name: str) -> Array:
            block = ResBlock(channels, self.num_groups, EPSILON, self.dropout, dtype=self.dtype, name=name)
            return block(h, None, deterministic)

        h = conv3x3(self.ch, name="conv_in", dtype=self.dtype)(x)
        for level, mult in enumerate(self.ch_mult):
            for block in range(self.num_res_blocks):
                h = res(h, self.ch * mult, f"down_{level}_res_{block}")
                if self.attention[level]:
                    h = PixelAttention(self.num_groups, self.dtype, name=f"down_{level}_attn_{block}")(h)
            if level < len(self.ch_mult) - 1:
                h = Downsample((0, 1), self.dtype, name=f"down_{level}_down")(h)
        h = res(h, h.shape[-1], "mid_res_1")
        if self.mid_attention:
            h = PixelAttention(self.num_groups, self.dtype, name="mid_attn_1")(h)
        h = res(h, h.shape[-1], "mid_res_2")
        h = nn.silu(GroupNorm(self.num_groups, EPSILON, self.dtype, name="norm_out")(h))
        return conv3x3(self.out_channels, name="conv_out", dtype=self.dtype)(h)


class Decoder(nn.Module):
    """Features back to images; levels are numbered by resolution (0 is the image's) and run from the last to 0."""

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attention: tuple[bool, ...]
    out_channels: int
    mid_attention: bool = True
    num_groups: int = 32
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"], deterministic: bool = True) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] to [b, f h, f w, out_channels], float32 and not clipped."""

        def res(h: Array, channels: int, name: str) -> Array:
            block = ResBlock(channels, self.num_groups, EPSILON, self.dropout, dtype=self.dtype, name=name)
            return block(h, None, deterministic)

        h = conv3x3(self.ch * self.ch_mult[-1], name="conv_in", dtype=self.dtype)(z)
        h = res(h, h.shape[-1], "mid_res_1")
        if self.mid_attention:
            h = PixelAttention(self.num_groups, self.dtype, name="mid_attn_1")(h)
        h = res(h, h.shape[-1], "mid_res_2")
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            for block in range(self.num_res_blocks + 1):
                h = res(h, self.ch * mult, f"up_{level}_res_{block}")
                if self.attention[level]:
                    h = PixelAttention(self.num_groups, self.dtype, name=f"up_{level}_attn_{block}")(h)
            if level:
                h = Upsample(self.dtype, name=f"up_{level}_up")(h)
        h = nn.silu(GroupNorm(self.num_groups, EPSILON, self.dtype, name="norm_out")(h))
        return conv3x3(self.out_channels, name="conv_out", dtype=self.dtype)(h).astype(jnp.float32)


def check_image_size(shape: tuple[int, ...], downsampling: int) -> None:
    """Refuses images [b, h, w, c] whose height or width `downsampling` does not divide.

    Raises:
      UserError: as said.
    """
    height, width = shape[1:3]
    if height % downsampling or width % downsampling:
        raise UserError(
            f"image size {height}x{width} is not allowed; height and width must be multiples of {downsampling}"
        )


class AutoencoderKL(nn.Module):
    """Images to a diagonal Gaussian over latents, and latents to images (https://arxiv.org/abs/2112.10752).

    `attn_resolutions` names the sizes that have attention when the image is `resolution` pixels wide; which levels
    those are is fixed by the two fields, whatever the size of the image at hand.
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

    @property
    def downsampling(self) -> int:
        """The factor f between the sizes of images and latents."""
        return 2 ** (len(self.ch_mult) - 1)

    def setup(self) -> None:
        dtype = jnp.dtype(self.dtype)
        levels = attention_levels(self.attn_resolutions, self.resolution, len(self.ch_mult))
        shared = (self.ch, self.ch_mult, self.num_res_blocks, levels)
        rest = (self.mid_attention, self.num_groups, self.dropout, dtype)
        self.encoder = Encoder(*shared, 2 * self.z_channels, *rest)
        self.decoder = Decoder(*shared, self.out_channels, *rest)
        self.quant = nn.Dense(2 * self.embed_dim, dtype=dtype)
        self.post_quant = nn.Dense(self.z_channels, dtype=dtype)

    def encode(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h2 w2 m"]:
        """Maps images [b, h, w, c] in [-1, 1] to moments [b, h/f, w/f, 2 embed_dim], means first, float32.

        Raises:
          UserError: f does not divide the height or the width.
        """
        check_image_size(x.shape, self.downsampling)
        return self.quant(self.encoder(x, deterministic)).astype(jnp.float32)

    def decode(self, z: Float[Array, "b h w e"], *, deterministic: bool = True) -> Float[Array, "b h2 w2 c"]:
        """Maps latents [b, h, w, embed_dim] to images [b, f h, f w, c], about [-1, 1], not clipped, float32."""
        return self.decoder(self.post_quant(z), deterministic)

    def __call__(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h w d"]:
        """Decodes the means of what `x` is encoded to; for initialisation and a quick look."""
        mean, _ = split_moments(self.encode(x, deterministic=deterministic))
        return self.decode(mean, deterministic=deterministic)


def split_moments(moments: Float[Array, "b h w m"]) -> tuple[Float[Array, "b h w e"], Float[Array, "b h w e"]]:
    """Returns mean and log-variance, [b, h, w, embed_dim] each, the latter clipped to [-30, 20]."""
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean, jnp.clip(logvar, -30.0, 20.0)


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
