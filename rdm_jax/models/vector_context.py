"""What unCLIP's decoder is conditioned on: tokens of an image's vector and of a text, and a vector beside the time.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.1, with the layers of the open model Karlo.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.models.layers import LayerNorm
from rdm_jax.models.prior import Text


class VectorContext(nn.Module):
    """Linear layers from CLIP's vector of an image, and a text, to a decoder's condition.

    Attributes:
      image_dim: the size of vectors of images.
      text_dim: the size of vectors of texts.
      state_dim: the size of the states of tokens.
      context_length: the number of tokens of a text.
      context_dim: the size of the decoder's context tokens.
      vector_dim: the size of the vector beside the time.
      image_tokens: context tokens that are made of the image's vector.
    """

    image_dim: int
    text_dim: int
    state_dim: int
    context_length: int
    context_dim: int
    vector_dim: int
    image_tokens: int = 4

    @property
    def smallest_inputs(self) -> tuple[Any, ...]:
        """Shapes and types of an image's vector and a text."""
        text = Text.shapes(self.text_dim, self.state_dim, self.context_length)
        return jax.ShapeDtypeStruct((1, self.image_dim), jnp.float32), text, jax.ShapeDtypeStruct((1,), jnp.bool_)

    @nn.compact
    def __call__(self, image: Float[Array, "b d"], text: Text, is_null: Any) -> tuple[Array, Array, Array]:
        """Returns context tokens [b, image_tokens + n, context_dim], their weights, and the vector [b, vector_dim].

        Args:
          image: CLIP's vectors of images, not normalized.
          text: of each of them; padding has weight 0.
          is_null: [b] whether a learned vector takes the place of the image's.
        """
        null: Any = self.param("null", nn.initializers.normal(1.0), (self.image_dim,))
        image = jnp.where(is_null[:, None], jnp.asarray(null)[None], image)
        vector = nn.Dense(self.vector_dim, name="text_vector")(text.vector)
        vector = vector + nn.Dense(self.vector_dim, name="image_vector")(image)
        flat = nn.Dense(self.image_tokens * self.context_dim, name="image_tokens_in")(image)
        # Token j has the components j, j + image_tokens, ...
        tokens = flat.reshape(len(image), self.context_dim, self.image_tokens).swapaxes(1, 2)
        states = LayerNorm(name="states_norm")(nn.Dense(self.context_dim, name="states")(text.states))
        weights = jnp.pad(text.present, ((0, 0), (self.image_tokens, 0)), constant_values=1.0)
        return jnp.concatenate([tokens, states], axis=1), weights, vector
