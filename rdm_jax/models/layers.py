"""Building blocks of the U-Nets and the autoencoders: norms, convolutions, resampling, residual blocks, time.

Everything is NHWC. Parameters are float32; `dtype` is the type of convolutions and products. Norms are computed in
float32 and return `dtype`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Real

from rdm_jax.core.errors import UserError
from rdm_jax.models.convolution import convolve, convolve_upsampled


class GroupNorm(nn.Module):
    """Group normalization over space and channel groups, computed in float32 (https://arxiv.org/abs/1803.08494)."""

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalizes [b, h, w, c].

        Raises:
          UserError: `num_groups` does not divide the channels.
        """
        b, _, _, c = x.shape
        if c % self.num_groups:
            raise UserError(f"num_groups={self.num_groups} does not divide {c} channels; choose a divisor")
        scale, bias = _scale_and_bias(self, c)

        def group_mean(values: Array) -> Array:
            # Space first: the grouping then costs almost nothing, and no array of the full size is reshaped.
            groups = values.mean(axis=(1, 2)).reshape(b, self.num_groups, -1).mean(axis=2)
            return jnp.repeat(groups, c // self.num_groups, axis=1)

        x = x.astype(jnp.float32)
        # Two passes: E[x^2] - E[x]^2 loses the digits of activations with a large mean.
        centered = x - group_mean(x)[:, None, None, :]
        factor = jax.lax.rsqrt(group_mean(centered**2) + self.epsilon) * scale[None, :]
        return (centered * factor[:, None, None, :] + bias[None, None, None, :]).astype(self.dtype)


class GatedNorm(nn.Module):
    """Group normalization whose result a map of features scales and shifts at each pixel.

    SPADE (https://arxiv.org/abs/1903.07291, equation 1); without a map it is the group normalization alone. `hidden`
    are the channels of its inner layer.
    """

    hidden: int
    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], gate: Float[Array, "b h2 w2 d"] | None = None
    ) -> Float[Array, "b h w c"]:
        """Normalizes [b, h, w, c]; of a larger map every n-th pixel counts."""
        normalized = GroupNorm(self.num_groups, self.epsilon, self.dtype, name="group")(x)
        if gate is None:
            return normalized
        rows, columns = (large // small for large, small in zip(gate.shape[1:3], x.shape[1:3], strict=True))
        shared = nn.relu(Conv3x3(self.hidden, dtype=self.dtype, name="shared")(gate[:, ::rows, ::columns]))
        scale, shift = (Conv3x3(x.shape[-1], dtype=self.dtype, name=name)(shared) for name in ("gamma", "beta"))
        return normalized * (1.0 + scale) + shift


def norm_of(
    x: Float[Array, "b h w c"], settings: tuple[int, float, Any], name: str, gated: int, gate: Array | None
) -> Float[Array, "b h w c"]:
    """Applies a norm of this name within a compact method.

    Args:
      x: what it normalizes.
      settings: its groups, epsilon and type.
      name: of its parameters.
      gated: the inner channels of a `GatedNorm`; 0 is a `GroupNorm`.
      gate: the map of the former, if there is one.
    """
    return GatedNorm(gated, *settings, name=name)(x, gate) if gated else GroupNorm(*settings, name=name)(x)


class LayerNorm(nn.Module):
    """Layer normalization over the channels of tokens, computed in float32 (https://arxiv.org/abs/1607.06450)."""

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*any c"]) -> Float[Array, "*any c"]:
        """Normalizes the last axis."""
        scale, bias = (p.reshape((1,) * (x.ndim - 1) + (-1,)) for p in _scale_and_bias(self, x.shape[-1]))
        x = x.astype(jnp.float32)
        centered = x - x.mean(axis=-1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + self.epsilon)
        return (centered * factor * scale + bias).astype(self.dtype)


class FrozenBatchNorm(nn.Module):
    """Batch normalization by stored statistics, which are parameters without gradient."""

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps [b, h, w, c] to (x - mean) / sqrt(var + epsilon) * scale + bias."""
        shape, ones, zeros = (x.shape[-1],), nn.initializers.ones, nn.initializers.zeros
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean = jax.lax.stop_gradient(self.param("mean", zeros, shape))
        var = jax.lax.stop_gradient(self.param("var", ones, shape))
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        out = x.astype(jnp.float32) * factor[None, None, None, :] + (bias - mean * factor)[None, None, None, :]
        return out.astype(self.dtype)


def _scale_and_bias(module: nn.Module, channels: int) -> tuple[Any, Any]:
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    return module.param("scale", ones, (channels,)), module.param("bias", zeros, (channels,))


class Conv3x3(nn.Module):
    """A 3x3 convolution of stride 1 with a bias; its parameters are those of `nn.Conv`.

    Attributes:
      features: the output channels.
      function: `convolve`, which keeps the size, or `convolve_upsampled`, which doubles it.
      zero_init: whether the kernel is initialized to zero.
      dtype: of the computation.
    """

    features: int
    function: Callable[[Array, Array], Array] = convolve
    zero_init: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] to [b, h, w, features], or twice that size."""
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        out = self.function(jnp.asarray(x, self.dtype), jnp.asarray(kernel, self.dtype))
        return out + jnp.asarray(bias, self.dtype)[None, None, None, :]


class Downsample(nn.Module):
    """Halves height and width by a 3x3 convolution of stride 2.

    `padding` is (before, after) on both axes: (1, 1) in the U-Net, (0, 1) in the autoencoders.
    """

    padding: tuple[int, int] = (1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Maps [b, h, w, c] to [b, h/2, w/2, c], h and w even."""
        pad = (self.padding, self.padding)
        return nn.Conv(x.shape[-1], (3, 3), strides=(2, 2), padding=pad, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, then a 3x3 convolution."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Maps [b, h, w, c] to [b, 2h, 2w, c]."""
        return Conv3x3(x.shape[-1], convolve_upsampled, dtype=self.dtype, name="conv")(x)


Resampling = Literal["", "down", "up"]


class ResBlock(nn.Module):
    """Two 3x3 convolutions, each after norm and SiLU, with a residual connection; an embedding enters between them.

    Attributes:
      channels: of the output.
      num_groups: of both norms.
      epsilon: of both norms.
      dropout: the rate before the second convolution.
      zero_init: whether the second kernel is initialized to zero.
      dtype: what products are computed in.
      scale_shift: whether the embedding scales and shifts the second norm instead of being added before it (ADM,
        https://arxiv.org/abs/2105.05233, section 3.1).
      resample: "down" halves height and width by means of 2x2 pixels, "up" doubles them by repeating pixels, before
        the first convolution and in the residual connection (https://arxiv.org/abs/1809.11096).
      gated: the inner channels of both norms, if a map of features gates them (`GatedNorm`); 0 for group norms.
    """

    channels: int
    num_groups: int = 32
    epsilon: float = 1e-5
    dropout: float = 0.0
    zero_init: bool = False
    dtype: Any = jnp.float32
    scale_shift: bool = False
    resample: Resampling = ""
    gated: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b e"] | None = None,
        deterministic: bool = True,
        gate: Float[Array, "b h3 w3 g"] | None = None,
    ) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] to [b, h, w, channels], or half or twice that size.

        `emb` [b, e] is the same for all pixels (time); `gate` is the map of gated norms.
        """
        settings = (self.num_groups, self.epsilon, self.dtype)
        h = resampled(nn.silu(norm_of(x, settings, "norm1", self.gated, gate)), self.resample)
        x = resampled(x, self.resample)
        h = Conv3x3(self.channels, dtype=self.dtype, name="conv1")(h)
        if emb is not None:
            width = 2 * self.channels if self.scale_shift else self.channels
            emb = nn.Dense(width, dtype=self.dtype, name="time")(nn.silu(emb))[:, None, None, :]
        if emb is not None and not self.scale_shift:
            h = h + emb
        h = norm_of(h, settings, "norm2", self.gated, gate)
        if emb is not None and self.scale_shift:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = h * (1.0 + scale) + shift
        h = nn.silu(h)
        h = nn.Dropout(self.dropout)(h, deterministic=deterministic)
        h = Conv3x3(self.channels, zero_init=self.zero_init, dtype=self.dtype, name="conv2")(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="skip")(x)
        return x + h


def resampled(x: Float[Array, "b h w c"], how: Resampling) -> Float[Array, "b h2 w2 c"]:
    """Returns a feature map at half or twice the size, or as it is."""
    b, h, w, c = x.shape
    if how == "down":
        return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2) if how == "up" else x


def timestep_embedding(t: Real[Array, " b"], dim: int) -> Float[Array, "b {dim}"]:
    """Returns the sinusoidal embedding of time, cosines first, in float32.

    Frequencies are exp(-ln(10000) i / half) for i < half = dim / 2 (https://arxiv.org/abs/1706.03762, section 3.5).

    Args:
      t: [b] timesteps in [0, 1000), integer or continuous.
      dim: the embedding's size, even.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def guidance_embedding(w: Float[Array, " b"], dim: int) -> Float[Array, "b {dim}"]:
    """Returns the sinusoidal embedding of a guidance weight, sines first, in float32.

    That of latent consistency models (https://arxiv.org/abs/2310.04378): frequencies exp(-ln(10000) i / (half - 1)) of
    1000 w.

    Args:
      w: [b] the weights, each one less than the scale of `guidance.classifier_free`.
      dim: the embedding's size, even and at least 4.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - 1))
    angles = 1000.0 * w.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """The sinusoidal embedding of time, with that of a guidance scale added to it.

    The scale's embedding has a linear layer without a bias that is zero at initialization, as in latent consistency
    models: a network with it starts as the same network without it.

    Attributes:
      width: the embedding's size, even.
      guidance_dim: the size of the scale's sinusoidal embedding; 0 takes no scale.
      dtype: of the result.
    """

    width: int
    guidance_dim: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, t: Real[Array, " b"], guidance: Float[Array, " b"] | None = None) -> Float[Array, "b c"]:
        """Maps times, and guidance scales (1 each if None), to embeddings [b, width].

        Raises:
          UserError: `guidance_dim` is odd or below 4.
        """
        emb = timestep_embedding(t, self.width)
        if self.guidance_dim:
            if self.guidance_dim < 4 or self.guidance_dim % 2:
                raise UserError(f"guidance_dim={self.guidance_dim} is out of range; give an even number, 4 or more")
            kernel = self.param("guidance", nn.initializers.zeros, (self.guidance_dim, self.width))
            w = jnp.zeros(t.shape) if guidance is None else guidance - 1.0
            emb = emb + jnp.matmul(guidance_embedding(w, self.guidance_dim), kernel, precision="highest")
        return emb.astype(self.dtype)
