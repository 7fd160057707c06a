"""The second stage of masked codes: those of a finer grid, given the codes of a coarse one and the condition.

Muse (https://arxiv.org/abs/2301.00704, section 2.6): blocks of self-attention read the coarse codes; the transformer
over the fine codes attends to their states and to the tokens of the condition, in one cross-attention.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import Implementation
from rdm_jax.models.condition import Condition, require_features, with_images
from rdm_jax.models.token_states import TokenStates
from rdm_jax.models.token_transformer import TokenTransformer


class FineTransformer(nn.Module):
    """Fine codes in row-major order to the logits of each, given coarse codes, a condition and all other fine codes.

    Attributes:
      num_codes: the codes of the fine first stage. Inputs have `mask_token` too.
      num_tokens: the fine codes of an image.
      coarse_codes: the codes of the coarse first stage.
      coarse_tokens: the coarse codes of an image.
      width: the channels of a token, coarse or fine.
      depth: the blocks over the fine codes.
      coarse_depth: the blocks over the coarse codes.
      context_dim: the channels of a token of the condition; a linear layer maps them to `width`.
      head_channels: the channels of an attention head; divides `width`.
      dropout: of each layer's output over the fine codes, in training.
      dtype: what products are computed in; norms, softmax and logits are in float32.
      remat: whether blocks over the fine codes are computed again in the backward pass, which saves memory.
      attention_implementation: passed to `attention.attend`.
      gated: whether feed-forward layers over the fine codes are gated (GEGLU).
      square: the side of the squares of an attention over two axes (`models.multi_axis`); 0 attends to all positions.
    """

    num_codes: int
    num_tokens: int
    coarse_codes: int
    coarse_tokens: int
    width: int
    depth: int
    coarse_depth: int
    context_dim: int
    head_channels: int = 64
    dropout: float = 0.0
    dtype: Any = "float32"
    remat: bool = False
    attention_implementation: Implementation = None
    gated: bool = True
    square: int = 0

    supports: ClassVar[frozenset[str]] = TokenTransformer.supports
    size_multiple: ClassVar[int] = 1

    @property
    def latent_size(self) -> int:
        """The height and width of an image's fine codes."""
        return math.isqrt(self.num_tokens)

    @property
    def mask_token(self) -> int:
        """The input token of a hidden code."""
        return self.num_codes

    @property
    def smallest_inputs(self) -> tuple[Any, ...]:
        """Shapes and types of the smallest inputs: fine codes, coarse codes and a condition."""
        fine, coarse = (jax.ShapeDtypeStruct((1, count), jnp.int32) for count in (max(self.square, 1) ** 2, 1))
        return fine, coarse, Condition(jax.ShapeDtypeStruct((1, 1, self.context_dim), jnp.float32))

    def setup(self) -> None:
        """Creates the encoder of coarse codes, the projection of the condition, and the transformer."""
        heads = self.width // self.head_channels
        self.coarse = TokenStates(
            self.coarse_codes,
            self.coarse_tokens,
            self.width,
            self.coarse_depth,
            heads,
            head_channels=self.head_channels,
            dtype=self.dtype,
        )
        self.context = nn.Dense(self.width, dtype=jnp.dtype(self.dtype))
        self.transformer = TokenTransformer(
            num_codes=self.num_codes,
            num_tokens=self.num_tokens,
            width=self.width,
            depth=self.depth,
            context_dim=self.width,
            head_channels=self.head_channels,
            dropout=self.dropout,
            dtype=self.dtype,
            remat=self.remat,
            attention_implementation=self.attention_implementation,
            causal=False,
            gated=self.gated,
            square=self.square,
        )

    def __call__(
        self, codes: Int[Array, "b l"], coarse: Int[Array, "b m"], condition: Condition, *, deterministic: bool = True
    ) -> Float[Array, "b l k"]:
        """Returns the logits [b, l, num_codes] of every fine code in float32.

        Args:
          codes: [b, l] in [0, num_codes], `mask_token` where they are hidden.
          coarse: [b, m] in [0, coarse_codes), all of them.
          condition: as of `TokenTransformer`.
          deterministic: without dropout; otherwise the "dropout" stream of random keys is needed.

        Raises:
          UserError: there are too many codes, or the condition does not fit.
        """
        return self.predict(codes, self.read(coarse, condition), deterministic=deterministic)

    def read(self, coarse: Int[Array, "b m"], condition: Condition) -> Condition:
        """Returns what `predict` is conditioned on, the same in all steps: coarse states, and the condition's tokens.

        Raises:
          UserError: there are too many codes, or the condition does not fit.
        """
        require_features("the second stage", self.supports, condition)
        tokens, weights = with_images(condition)
        if tokens.shape[2] != self.context_dim:
            raise UserError(f"context tokens have {tokens.shape[2]} numbers, the second stage takes {self.context_dim}")
        states = self.coarse(coarse)
        given = jnp.asarray(self.context(tokens), states.dtype)
        if weights is not None:
            weights = jnp.concatenate([jnp.ones(states.shape[:2], weights.dtype), weights], axis=1)
        return Condition(jnp.concatenate([states, given], axis=1), weights)

    def predict(
        self, codes: Int[Array, "b l"], condition: Condition, *, deterministic: bool = True
    ) -> Float[Array, "b l k"]:
        """Returns the logits as `__call__` does, given what `read` returned."""
        return self.transformer(codes, condition, deterministic=deterministic)
