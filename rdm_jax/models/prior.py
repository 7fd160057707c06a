"""The diffusion prior of unCLIP: from a text to the CLIP vector of an image that the text describes.

Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents"
(https://arxiv.org/abs/2204.06125), section 2.2, with the layers of the open model Karlo.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Real

from rdm_jax.core.errors import UserError
from rdm_jax.models.condition import attention_bias
from rdm_jax.models.layers import LayerNorm, timestep_embedding
from rdm_jax.models.statistics import mean_and_std
from rdm_jax.models.vit_layers import MLP, SelfAttention

HIDDEN = -1e4  # added to the logits of what is not attended to; finite, as a softmax over nothing would be NaN


@flax.struct.dataclass
class Text:
    """A text as CLIP's text tower describes it; every field has a leading axis b.

    Attributes:
      vector: [b, e] CLIP's vector of the text.
      states: [b, n, c] of its tokens, after the tower's last norm.
      present: [b, n] 1 up to the end of the text, 0 for padding.
    """

    vector: Any
    states: Any
    present: Any

    @staticmethod
    def shapes(text_dim: int, state_dim: int, length: int) -> Text:
        """Returns the shapes and types of one text: e = text_dim, c = state_dim, n = length."""
        shapes = (1, text_dim), (1, length, state_dim), (1, length)
        return Text(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))


class Prior(nn.Module):
    """A causal transformer over a text, its vector, the time, the noisy vector of an image, and a learned query.

    The output at the last place is the denoised estimate. Vectors are standardized number by number: `standardize` and
    `restore` convert them.

    Attributes:
      embed_dim: the size of CLIP's vectors of images.
      text_dim: the size of its vectors of texts.
      state_dim: the size of the states of tokens.
      context_length: the number of tokens of a text.
      width: channels of a place in the sequence; even, and a multiple of `heads`.
      depth: the number of blocks.
      heads: of every attention.
      dropout: of the output of every attention and MLP.
    """

    embed_dim: int
    text_dim: int
    state_dim: int
    context_length: int
    width: int
    depth: int
    heads: int
    dropout: float = 0.0

    @property
    def smallest_inputs(self) -> tuple[Any, ...]:
        """Shapes and types of a noisy vector, a time and a text."""
        text = Text.shapes(self.text_dim, self.state_dim, self.context_length)
        return jax.ShapeDtypeStruct((1, self.embed_dim), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32), text

    def setup(self) -> None:
        if self.width % self.heads or self.width % 2:
            raise UserError(f"width={self.width} of the prior is not even, or no multiple of heads={self.heads}")
        self.statistics = mean_and_std(self, "image", self.embed_dim)

    def standardize(self, vectors: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Returns CLIP's vectors of images with mean 0 and standard deviation 1 in each number."""
        mean, std = self.statistics
        return (vectors - mean) / std

    def restore(self, x: Float[Array, "b d"]) -> Float[Array, "b d"]:
        """Returns CLIP's vectors from standardized ones."""
        mean, std = self.statistics
        return x * std + mean

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], t: Real[Array, " b"], text: Text, deterministic: bool = True
    ) -> Float[Array, "b d"]:
        """Returns the denoised estimate of standardized vectors.

        Args:
          x: [b, embed_dim] noisy standardized vectors of images.
          t: [b] times in [0, 1000).
          text: of each of them.
          deterministic: without dropout; otherwise the "dropout" stream of random keys is needed.
        """
        normal = nn.initializers.normal(0.02)
        time = nn.Dense(self.width, name="time_1")(timestep_embedding(t, self.width))
        time = nn.Dense(self.width, name="time_2")(nn.silu(time))
        query = jnp.broadcast_to(self.param("query", normal, (1, 1, self.width)), (len(x), 1, self.width))
        vector, noisy = nn.Dense(self.width, name="vector")(text.vector), nn.Dense(self.width, name="noisy")(x)
        further = jnp.stack([vector, time, noisy], axis=1)
        h = jnp.concatenate([nn.Dense(self.width, name="states")(text.states), further, query], axis=1)
        h = h + self.param("positions", normal, (1, self.context_length + 4, self.width))
        bias = _causal_bias(jnp.pad(text.present, ((0, 0), (0, 4)), constant_values=1.0))
        for i in range(self.depth):
            h = PriorBlock(self.heads, self.dropout, name=f"block_{i}")(h, bias, deterministic)
        return nn.Dense(self.embed_dim, name="out")(LayerNorm(name="norm_out")(h[:, -1]))


class PriorBlock(nn.Module):
    """Self-attention and an MLP four times as wide, both pre-norm residual layers.

    Attributes:
      heads: of the attention.
      dropout: of both outputs.
    """

    heads: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], bias: Float[Array, "b n n"], deterministic: bool
    ) -> Float[Array, "b n c"]:
        """Maps [b, n, c] to [b, n, c]; `bias` is added to the logits of all heads."""
        init = nn.initializers.xavier_uniform()
        h = SelfAttention(self.heads, True, init, name="attn")(LayerNorm(name="norm1")(x), bias)
        x = x + nn.Dropout(self.dropout)(h, deterministic=deterministic)
        h = MLP(4 * x.shape[-1], False, init, name="mlp")(LayerNorm(name="norm2")(x))
        return x + nn.Dropout(self.dropout)(h, deterministic=deterministic)


def _causal_bias(present: Float[Array, "b n"]) -> Float[Array, "b n n"]:
    """Returns what hides the places behind a query's own, and padding, from it."""
    n = present.shape[1]
    later = jnp.where(jnp.tri(n, dtype=bool), 0.0, HIDDEN)[None]
    return later + attention_bias(present, 1)
