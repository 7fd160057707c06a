"""CLIP's text transformer as aMUSEd reads it: a state for every token, and one vector of the text.

The states are those before the last block, without a norm; the vector is CLIP's own embedding of the text.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.models.clip import TextTransformer


class PooledText(TextTransformer, kw_only=True):
    """CLIP's causal text transformer, read out at every token before the last block, and at the end of the text."""

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> tuple[Float[Array, "b n c"], Float[Array, "b d"]]:
        """Maps token ids [b, n] to the states of the tokens [b, n, width] and embeddings [b, embed_dim], float32.

        Raises:
          UserError: the rows are longer than `context_length`.
        """
        states = self.hidden(tokens)
        return states[-2].astype(jnp.float32), self.pooled(states[-1], tokens)
