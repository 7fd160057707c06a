"""CLIP's text transformer, read out twice: a state for every token, and CLIP's own embedding of the text.

aMUSEd takes the states before the last block, without a norm, and unCLIP those after the last norm.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.models.clip import TextTransformer
from rdm_jax.models.layers import LayerNorm


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


class ProjectedText(TextTransformer, kw_only=True):
    """CLIP's causal text transformer, read out at every token after the last norm, and at the end of the text."""

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> tuple[Float[Array, "b n c"], Float[Array, "b d"]]:
        """Maps token ids [b, n] to the states of the tokens [b, n, width] and embeddings [b, embed_dim], float32.

        Raises:
          UserError: the rows are longer than `context_length`.
        """
        states = LayerNorm(dtype=jnp.dtype(self.dtype), name="norm_out")(self.hidden(tokens)[-1])
        return states.astype(jnp.float32), self.projected(self.at_end(states, tokens))

    def present(self, tokens: Int[Array, "b n"]) -> Float[Array, "b n"]:
        """Returns 1 for each token up to the end of its text, and 0 for padding."""
        return (jnp.arange(tokens.shape[1])[None] <= self.ends(tokens)[:, None]).astype(jnp.float32)
