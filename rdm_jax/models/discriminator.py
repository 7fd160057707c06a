"""The patch discriminator that trains autoencoders: is a patch from a real image or from the decoder?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class PatchDiscriminator(nn.Module):
    """PatchGAN (https://arxiv.org/abs/1611.07004, appendix 6.1.2) as in VQGAN.

    The running means of its batch norms are in the collection "batch_stats", not among the parameters.

    Attributes:
      ch: channels of the first convolution; they double with each of the next ones, up to eight times as many.
      num_layers: convolutions of stride 2; with 3 the receptive field is 70x70 pixels.
      dtype: of the convolutions.
    """

    ch: int = 64
    num_layers: int = 3
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> Float[Array, "b h2 w2 1"]:
        """Maps images [b, h, w, 3] in [-1, 1] to logits of patches, high for real images, float32.

        Args:
          x: the images.
          train: normalizes by the batch, and updates the running means (mutable=["batch_stats"]); otherwise
            normalizes by the running means.
        """
        dtype, normal = jnp.dtype(self.dtype), nn.initializers.normal(0.02)

        def conv(features: int, stride: int, name: str, use_bias: bool) -> nn.Conv:
            pad = ((1, 1), (1, 1))
            return nn.Conv(features, (4, 4), stride, pad, use_bias=use_bias, dtype=dtype, kernel_init=normal, name=name)

        h = nn.leaky_relu(conv(self.ch, 2, "conv_0", use_bias=True)(x), 0.2)
        for layer in range(1, self.num_layers + 1):
            stride = 2 if layer < self.num_layers else 1
            h = conv(self.ch * min(2**layer, 8), stride, f"conv_{layer}", use_bias=False)(h)
            norm = nn.BatchNorm(
                not train, momentum=0.9, dtype=jnp.float32, scale_init=_around_one, name=f"norm_{layer}"
            )
            h = nn.leaky_relu(norm(h), 0.2).astype(dtype)
        return conv(1, 1, "conv_out", use_bias=True)(h).astype(jnp.float32)


def _around_one(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    return 1.0 + nn.initializers.normal(0.02)(key, shape, dtype)
