"""GLIDE's text encoder: a transformer without masks whose padding has a learned vector at each position.

Nichol et al. 2021, "GLIDE" (https://arxiv.org/abs/2112.10741), section 4.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.models.clip import Block
from rdm_jax.models.layers import LayerNorm
from rdm_jax.models.token_rows import TokenRows


class PaddedText(TokenRows):
    """Token ids to a state for each position, padding included.

    A padded position has its own learned vector instead of the sum of a token's embedding and its position. The last
    state sums up the text: it is the vector that the denoiser adds to the time.

    Attributes:
      pad_token: the id that stands for padding; a row has `context_length` tokens.
      dtype: what products are computed in.
    """

    pad_token: int
    dtype: Any = "float32"

    has_marks: ClassVar[bool] = False
    has_summary: ClassVar[bool] = True

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b n c"]:
        """Maps token ids [b, context_length] to their states [b, context_length, width], float32.

        Raises:
          UserError: the rows have another length.
        """
        if tokens.shape[1] != self.context_length:
            raise UserError(f"rows of {tokens.shape[1]} text tokens; this text encoder takes {self.context_length}")
        if tokens.shape[1] != self.context_length:
            raise UserError(f"rows of {tokens.shape[1]} text tokens; this text encoder takes {self.context_length}")
        dtype = jnp.dtype(self.dtype)
        x = self.embedded(tokens, dtype)
        padding: Any = self.param("padding", nn.initializers.normal(0.01), (self.context_length, self.width))
        padding = jnp.asarray(padding, dtype)[None]
        x = jnp.where((tokens == self.pad_token)[..., None], padding, x)
        for i in range(self.layers):
            x = Block(self.heads, self.layers, "gelu", dtype=dtype, name=f"block_{i}")(x)
        return LayerNorm(dtype=dtype, name="norm_out")(x).astype(jnp.float32)
