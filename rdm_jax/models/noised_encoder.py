"""The encoder half of a U-Net, which reads noisy latents: the network of classifier guidance and of SDG.

ADM's classifier (https://arxiv.org/abs/2105.05233, appendix): the downsampling half, conditioned on the time, and an
attention pool. It classifies, or returns a vector in a CLIP's space (https://arxiv.org/abs/2112.05744, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Real

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import AttentionBlock, PixelAttention
from rdm_jax.models.clip import AttentionPool
from rdm_jax.models.layers import Conv3x3, Downsample, GroupNorm, Resampling, ResBlock, timestep_embedding

EPSILON = 1e-5


class NoisedEncoder(nn.Module):
    """Noisy latents or images and their times to a vector.

    Attributes:
      in_channels: of the input.
      features: the length of the vector.
      latent_size: height and width of the latents; the pool has a position for each pixel of the last level.
      model_channels: channels at level 0; the time embedding is four times as wide.
      channel_mult: channels of each level, in units of `model_channels`.
      num_res_blocks: residual blocks of each level.
      attention_resolutions: the downsampling factors at which every block is followed by attention.
      num_head_channels: of the attention pool; must divide the last level's channels.
      attention_head_channels: of the attention within levels; 0 has one head.
      scale_shift: whether the embedding of the time scales and shifts norms instead of being added before them.
      residual_resampling: whether residual blocks halve the size, instead of one convolution.
      middle: whether the last level is followed by two more blocks with attention between them.
      num_groups: of every norm.
      dropout: the rate within residual blocks.
      dtype: what products are computed in.
    """

    in_channels: int
    features: int
    latent_size: int
    model_channels: int
    channel_mult: tuple[int | float, ...]
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = ()
    num_head_channels: int = 32
    attention_head_channels: int = 0
    scale_shift: bool = False
    residual_resampling: bool = False
    middle: bool = False
    num_groups: int = 32
    dropout: float = 0.0
    dtype: Any = "float32"

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and types of the smallest inputs: latents and times."""
        side = self.latent_size
        shapes = (1, side, side, self.in_channels), (1,)
        return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], t: Real[Array, " b"], *, deterministic: bool = True
    ) -> Float[Array, "b f"]:
        """Maps x_t [b, h, w, in_channels] and times [b] in [0, 1000) to [b, features], float32.

        The feature maps after the levels are sown as "level_0", "level_1", ... into the collection "intermediates". h
        and w are `latent_size`: the pool has learned positions.

        Raises:
          UserError: the latents have another size, or another number of channels.
        """
        expected = (self.latent_size, self.latent_size, self.in_channels)
        if x.shape[1:] != expected:
            raise UserError(
                f"latents {'x'.join(map(str, x.shape[1:]))} do not fit the network of noisy latents, whose learned "
                f"positions are those of {'x'.join(map(str, expected))}; use latents of this size"
            )
        dtype = jnp.dtype(self.dtype)
        emb = timestep_embedding(t, self.model_channels).astype(dtype)
        emb = nn.silu(nn.Dense(4 * self.model_channels, dtype=dtype, name="time_1")(emb))
        emb = nn.Dense(4 * self.model_channels, dtype=dtype, name="time_2")(emb)

        def res(h: Array, name: str, channels: int, resample: Resampling = "") -> Array:
            """Returns a feature map after the residual block of this name."""
            settings = self.num_groups, EPSILON, self.dropout, True, dtype, self.scale_shift, resample
            return ResBlock(channels, *settings, name=name)(h, emb, deterministic)

        widths = [int(self.model_channels * mult) for mult in self.channel_mult]
        h = Conv3x3(widths[0], dtype=dtype, name="conv_in")(x)
        for level, channels in enumerate(widths):
            if level:
                h = self._halved(h, f"down_{level}", res)
            for i in range(self.num_res_blocks):
                h = res(h, f"res_{level}_{i}", channels)
                if 2**level in self.attention_resolutions:
                    h = self._attend(h, f"attn_{level}_{i}")
            self.sow("intermediates", f"level_{level}", h)
        if self.middle:
            h = res(self._attend(res(h, "mid_0", widths[-1]), "mid_attn"), "mid_1", widths[-1])
        h = nn.silu(GroupNorm(self.num_groups, EPSILON, dtype, name="norm_out")(h))
        heads = h.shape[-1] // self.num_head_channels
        return AttentionPool(heads, self.features, dtype, name="pool")(h).astype(jnp.float32)

    def _halved(self, h: Array, name: str, res: Callable[..., Array]) -> Array:
        """Returns a feature map at half its size."""
        if self.residual_resampling:
            return res(h, name, h.shape[-1], "down")
        return Downsample((1, 1), jnp.dtype(self.dtype), name=name)(h)

    def _attend(self, h: Array, name: str) -> Array:
        """Returns a feature map after the attention of this name."""
        dtype = jnp.dtype(self.dtype)
        if self.attention_head_channels:
            return AttentionBlock(self.attention_head_channels, self.num_groups, None, dtype, name=name)(h)
        return PixelAttention(self.num_groups, dtype, name=name)(h)


def split_logits(logits: Float[Array, "b f"], names: Mapping[str, Sequence[str]]) -> dict[str, Float[Array, "b _"]]:
    """Returns {attribute: logits [b, classes]} of the network's output."""
    ends = np.cumsum([len(classes) for classes in names.values()])[:-1].tolist()
    return dict(zip(names, jnp.split(logits, ends, axis=1), strict=True))
