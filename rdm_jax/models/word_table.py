"""A text tower that is a table: one vector for each entry of a vocabulary, and a text is the sum of its entries.

As in smooth inverse frequency (https://openreview.net/forum?id=SyK00v5xx), entries have weights in the sum: the lengths
of their rows. The order of words is not seen; there is nothing to compute but a lookup, and a word costs microseconds.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError

UNREAD = 4
"""The ids below this one are the start, the end, the unknown token and a space alone; their rows are not read."""


class WordTable(nn.Module):
    """Maps the tokens of a text to one vector of unit length; a text without known tokens is the zero vector.

    Attributes:
      embed_dim: the length of the vectors.
      vocab_size: the number of rows.
      context_length: the most tokens of a text, start and end included.
      eos_id: of the end token, one of the first `UNREAD` ids; it pads as well.
      dtype: of the rows in the sum.
    """

    embed_dim: int
    vocab_size: int
    context_length: int
    eos_id: int | None = None
    dtype: Any = "float32"

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b d"]:
        """Maps token ids [b, n], n <= context_length, to unit vectors [b, embed_dim], float32.

        Raises:
          UserError: the rows are longer than `context_length`.
        """
        if tokens.shape[1] > self.context_length:
            raise UserError(
                f"{tokens.shape[1]} text tokens are too many; the table takes {self.context_length}, truncate them"
            )
        normal = nn.initializers.normal(self.embed_dim**-0.5)
        rows = self.param("word_table", normal, (self.vocab_size, self.embed_dim)).astype(jnp.dtype(self.dtype))
        read = (tokens >= UNREAD)[:, :, None]
        total = jnp.where(read, rows[tokens], 0).astype(jnp.float32).sum(axis=1)
        # The smallest divisor keeps the gradient of an empty text finite.
        return total / jnp.sqrt(jnp.maximum(jnp.square(total).sum(axis=1, keepdims=True), 1e-12))
