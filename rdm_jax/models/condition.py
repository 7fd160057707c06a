"""What a denoiser is conditioned on, the optional features of a denoiser, and the check of one against the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError

LEAST_WEIGHT = 1e-30  # stands for a weight of 0, whose logarithm would make a softmax over such tokens alone NaN

FEATURES: Mapping[str, str] = {
    "token_weights": "weights of single tokens",
    "spatial_weights": "weights of tokens by region",
    "channels": "channels beside the noisy latent",
    "vector": "a vector beside the time",
    "guidance": "a guidance scale beside the time",
    "any_size": "images of another size than it was built for",
}
"""What a denoiser may support, each with the words that an error uses."""


@flax.struct.dataclass
class Condition:
    """What a denoiser is conditioned on; every field has a leading batch axis b, or is None.

    Attributes:
      tokens: [b, n, d] context tokens, a set without order: the query and its neighbors.
      weights: how often each token counts in every attention to the tokens, at least 0, 1 each if None: [b, n], or
        [b, h, w, n] for each pixel of the latent.
      channels: [b, h, w, c] concatenated to the noisy latent (a mask, a low-resolution image, a layout).
      vector: [b, v] beside the time (a class as a one-hot vector, pooled text); a linear layer of the network embeds
        it.
      guidance: [b] the scale of classifier-free guidance that the network is to reproduce in one evaluation; 1 each if
        None.
    """

    tokens: Any = None
    weights: Any = None
    channels: Any = None
    vector: Any = None
    guidance: Any = None

    @property
    def features(self) -> tuple[str, ...]:
        """The names in `FEATURES` that a denoiser must support to take this condition."""
        used = {
            "token_weights": self.weights is not None,
            "spatial_weights": self.weights is not None and self.weights.ndim == 4,
            "channels": self.channels is not None,
            "vector": self.vector is not None,
            "guidance": self.guidance is not None,
        }
        return tuple(name for name, present in used.items() if present)


def require_features(network: str, supported: frozenset[str], condition: Condition) -> None:
    """Raises UserError if a condition uses something that a denoiser does not support.

    Args:
      network: the denoiser's name for the message ("DiT").
      supported: names in `FEATURES`.
      condition: what the denoiser is called with.
    """
    missing = [FEATURES[name] for name in condition.features if name not in supported]
    if missing:
        raise UserError(f"{network} does not support {' or '.join(missing)}; leave out what asks for it")


def attention_bias(weights: Float[Array, "b n"] | Float[Array, "b h w n"], factor: int) -> Float[Array, "b m n"]:
    """Returns the logarithms of tokens' weights: added to a softmax's logits, a token counts as often as its weight.

    Args:
      weights: at least 0; of each token, or of each token at each pixel.
      factor: the pixels of the weights for each query, in height and in width; weights are averaged over them.

    Returns:
      for every query, row by row, [b, h w / factor ** 2, n], or [b, 1, n] for all of them.
    """
    if weights.ndim == 4:
        b, h, w, n = weights.shape
        weights = weights.reshape(b, h // factor, factor, w // factor, factor, n).mean(axis=(2, 4))
    return jnp.log(jnp.maximum(weights, LEAST_WEIGHT)).reshape(weights.shape[0], -1, weights.shape[-1])
