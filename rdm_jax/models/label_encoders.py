"""Small encoders of labels as conditions: a class as a context token, a label map as channels.

Both are those of latent diffusion (https://arxiv.org/abs/2112.10752, section 3.3); they are trained with the denoiser.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Integer

from rdm_jax.core.errors import UserError


class ClassToken(nn.Module):
    """One learned context token for each class.

    Attributes:
      num_classes: the classes.
      width: the size of a token.
      null_class: whether there is one more class, the last one, which stands for no class.
    """

    num_classes: int
    width: int
    null_class: bool = False

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of one class."""
        return (jax.ShapeDtypeStruct((1,), jnp.int32),)

    @nn.compact
    def __call__(self, classes: Integer[Array, " b"]) -> Float[Array, "b 1 d"]:
        """Maps class numbers [b] to tokens [b, 1, width]; `num_classes` is the null class."""
        return nn.Embed(self.num_classes + self.null_class, self.width, name="classes")(classes)[:, None]


class LabelMap(nn.Module):
    """The labels of an image's pixels as channels at the size of its latent.

    One-hot labels are averaged over 2x2 pixels `stages` times, and a linear layer without bias maps them to channels.

    Attributes:
      num_labels: the labels.
      channels: of the result.
      stages: how often height and width are halved.
    """

    num_labels: int
    channels: int
    stages: int

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of the smallest label map."""
        side = 2**self.stages
        return (jax.ShapeDtypeStruct((1, side, side), jnp.int32),)

    @nn.compact
    def __call__(self, labels: Integer[Array, "b h w"]) -> Float[Array, "b h2 w2 c"]:
        """Maps labels [b, h, w] to channels [b, h / 2 ** stages, w / 2 ** stages, channels].

        Raises:
          UserError: height or width is not a multiple of 2 ** stages.
        """
        b, h, w = labels.shape
        factor = 2**self.stages
        if h % factor or w % factor:
            raise UserError(f"a label map of {h}x{w} pixels does not fit; height and width are multiples of {factor}")
        # Averages of averages are those of all factor x factor pixels; the order of the sums differs by rounding alone.
        blocks = labels.reshape(b, h // factor, factor, w // factor, factor)
        shares: Any = jax.nn.one_hot(blocks, self.num_labels, dtype=jnp.float32).mean(axis=(2, 4))
        return nn.Dense(self.channels, use_bias=False, name="mapper")(shares)
