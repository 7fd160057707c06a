"""The encoder of style neighbors by patches: tokens of what another network sees in an image.

Re-Imagen (https://arxiv.org/abs/2209.14491, section 3.2) takes a neighbor's tokens from the denoiser's own features;
patches of latents and one vector of a retrieval encoder are simpler forms of the same.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError
from rdm_jax.models.style_encoder import EPSILON


class PatchEncoder(nn.Module):
    """Two layers over each patch of a feature map, with learned positions.

    Attributes:
      image_size: height and width of an image that the map is of.
      token_dim: the size of a token.
      input_shape: (h, w, c) of a map.
      view: what the map is, a name in `conditioning.views.VIEWS`.
      patch: height and width of a patch, which divide those of the map.
      hidden: the width of the first layer.
      vector_dim: the size of the vector.
      dtype: what products are computed in; parameters stay in float32.
    """

    image_size: int
    token_dim: int
    input_shape: tuple[int, int, int]
    view: str
    patch: int = 4
    hidden: int = 256
    vector_dim: int = 128
    dtype: Any = "float32"

    @property
    def tokens(self) -> int:
        """The number of tokens of an image."""
        return (self.input_shape[0] // self.patch) * (self.input_shape[1] // self.patch)

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of the smallest input: the map of one image."""
        return (jax.ShapeDtypeStruct((1, *self.input_shape), jnp.float32),)

    @nn.compact
    def __call__(self, maps: Float[Array, "b h w c"]) -> tuple[Float[Array, "b n d"], Float[Array, "b v"]]:
        """Returns tokens [b, tokens, token_dim] and vectors [b, vector_dim] of length 1, both in float32.

        Args:
          maps: [b, *input_shape].

        Raises:
          UserError: the maps have another shape, or patches do not divide them.
        """
        dtype, p = jnp.dtype(self.dtype), self.patch
        (b, h, w, c), wanted = maps.shape, tuple(self.input_shape)
        if (h, w, c) != wanted or h % p or w % p:
            raise UserError(
                f"a style encoder of patches of {p}x{p} takes maps of {wanted}, which patches must divide, and got "
                f"{(h, w, c)}"
            )
        patches = maps.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3).reshape(b, self.tokens, p * p * c)
        hidden = nn.silu(nn.Dense(self.hidden, dtype=dtype, name="patch")(patches.astype(dtype)))
        positions = self.param("positions", nn.initializers.normal(0.02), (self.tokens, self.token_dim))
        tokens = nn.Dense(self.token_dim, dtype=dtype, name="token")(hidden).astype(jnp.float32) + positions[None]
        vector = nn.Dense(self.vector_dim, name="vector")(hidden.astype(jnp.float32).mean(axis=1))
        return tokens, vector / jnp.maximum(jnp.linalg.norm(vector, axis=-1, keepdims=True), EPSILON)
