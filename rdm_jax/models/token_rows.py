"""What networks over rows of tokens have in common: the sizes, and the embedding of tokens with their positions."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError


class TokenRows(nn.Module):
    """The base of networks over rows of tokens.

    Attributes:
      vocab_size: the number of token embeddings.
      context_length: the most tokens of a row.
      width: the channels of a token.
      layers: the number of blocks.
      heads: of each block.
      has_marks: whether a row begins with the start token and has the end token after the text.
      has_summary: whether the last state sums up the text, for the denoiser to add it to the time.
    """

    vocab_size: int
    context_length: int
    width: int
    layers: int
    heads: int

    has_marks: ClassVar[bool] = True
    has_summary: ClassVar[bool] = False

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of one row of tokens."""
        return (jax.ShapeDtypeStruct((1, self.context_length), jnp.int32),)

    def embedded(self, tokens: Int[Array, "b n"], dtype: Any) -> Float[Array, "b n c"]:
        """Returns the embeddings of tokens plus those of their positions, within a compact method.

        Raises:
          UserError: the rows are longer than `context_length`.
        """
        length, normal = tokens.shape[1], nn.initializers.normal
        if length > self.context_length:
            raise UserError(
                f"{length} text tokens are too many; this encoder takes {self.context_length}, truncate them"
            )
        x = nn.Embed(self.vocab_size, self.width, dtype=dtype, embedding_init=normal(0.02), name="tokens")(tokens)
        positions = self.param("positions", normal(0.01), (self.context_length, self.width))
        return x + jnp.asarray(positions[:length], dtype)[None]
