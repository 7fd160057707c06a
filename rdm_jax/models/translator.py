"""The translator: an MLP from the vector of a text to the vector of an image that the text describes.

Zbinden 2022, "Implementing and Experimenting with Diffusion Models for Text-to-Image Generation"
(https://arxiv.org/abs/2209.10948), which has it in place of a diffusion prior.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.models.layers import LayerNorm
from rdm_jax.models.statistics import mean_and_std


class Translator(nn.Module):
    """Residual blocks of a norm and two linear layers, between vectors that are standardized number by number.

    Attributes:
      embed_dim: the size of CLIP's vectors.
      width: channels between the blocks; the thesis has 512, as many as its vectors.
      hidden: channels within a block; the thesis has 1024.
      depth: the number of blocks; the thesis has 30.
      dropout: within a block, after the GELU.
    """

    embed_dim: int
    width: int = 512
    hidden: int = 1024
    depth: int = 30
    dropout: float = 0.1

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of one vector."""
        return (jax.ShapeDtypeStruct((1, self.embed_dim), jnp.float32),)

    @nn.compact
    def __call__(self, text: Float[Array, "b d"], deterministic: bool = True) -> Float[Array, "b d"]:
        """Maps CLIP's vectors of texts [b, embed_dim] to vectors of images [b, embed_dim], neither of length 1.

        Args:
          text: as projected, not normalized.
          deterministic: without dropout; otherwise the "dropout" stream of random keys is needed.
        """
        mean, std = mean_and_std(self, "text", self.embed_dim)
        h = nn.Dense(self.width, name="in")((text - mean) / std)
        for i in range(self.depth):
            h = h + self._block(h, f"block_{i}", deterministic)
        h = nn.Dense(self.embed_dim, name="out")(LayerNorm(name="norm_out")(h))
        mean, std = mean_and_std(self, "image", self.embed_dim)
        return h * std + mean

    def _block(self, h: Array, name: str, deterministic: bool) -> Any:
        up = nn.Dense(self.hidden, name=f"{name}_up")(LayerNorm(name=f"{name}_norm")(h))
        up = nn.Dropout(self.dropout)(nn.gelu(up, approximate=False), deterministic=deterministic)
        return nn.Dense(self.width, name=f"{name}_down")(up)
