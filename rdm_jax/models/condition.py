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
    "paint": "tokens painted on pixels",
    "channels": "channels beside the noisy latent",
    "vector": "a vector beside the time",
    "guidance": "a guidance scale beside the time",
    "images": "tokens of images beside those of the text",
    "any_size": "images of another size than it was built for",
}
"""What a denoiser may support, each with the words that an error uses."""


@flax.struct.dataclass
class ImageTokens:
    """Tokens of images that have an attention of their own beside the context; every field has a leading axis b.

    Attributes:
      tokens: [b, g, n, d] in g groups; all tokens of a group share one softmax.
      scales: [b, g] what the attention to each group is multiplied by, or [b, h, w, g] for each pixel of the latent.
      weights: [b, g, n] how often each token counts in its softmax, at least 0; 1 each if None.
      blocks: [b, p] what the attention in each of a network's places is multiplied by; 1 each if None.
    """

    tokens: Any
    scales: Any
    weights: Any = None
    blocks: Any = None


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
      images: `ImageTokens`, which an adapter attends to.
      paint: [b, h, w, n] how strongly each pixel of the latent is painted with each token, at least 0: times the
        largest logit of an attention, it is added to the logits (paint with words,
        https://arxiv.org/abs/2211.01324, section 4.3).
    """

    tokens: Any = None
    weights: Any = None
    channels: Any = None
    vector: Any = None
    guidance: Any = None
    images: Any = None
    paint: Any = None

    @property
    def features(self) -> tuple[str, ...]:
        """The names in `FEATURES` that a denoiser must support to take this condition."""
        used = {
            "token_weights": self.weights is not None,
            "spatial_weights": self.weights is not None and self.weights.ndim == 4,
            "paint": self.paint is not None,
            "channels": self.channels is not None,
            "vector": self.vector is not None,
            "guidance": self.guidance is not None,
            "images": self.images is not None,
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


def require_vector(network: str, size: int, condition: Condition) -> None:
    """Raises UserError unless a condition has the vector that a denoiser takes.

    Args:
      network: the denoiser's name for the message ("DiT").
      size: of the vector; 0 takes none, which `require_features` checks.
      condition: what the denoiser is called with.
    """
    vector = condition.vector
    if size and (vector is None or vector.shape[1] != size):
        given = "none" if vector is None else f"one of {vector.shape[1]}"
        raise UserError(f"{network} of this model takes a vector of {size} numbers, and the condition has {given}")


def attention_bias(weights: Float[Array, "b n"] | Float[Array, "b h w n"], factor: int) -> Float[Array, "b m n"]:
    """Returns the logarithms of tokens' weights: added to a softmax's logits, a token counts as often as its weight.

    Args:
      weights: at least 0; of each token, or of each token at each pixel.
      factor: the pixels of the weights for each query, in height and in width; weights are averaged over them.

    Returns:
      for every query, row by row, [b, h w / factor ** 2, n], or [b, 1, n] for all of them.
    """
    return jnp.log(jnp.maximum(at_queries(weights, factor), LEAST_WEIGHT))


def at_queries(values: Float[Array, "b n"] | Float[Array, "b h w n"], factor: int) -> Float[Array, "b m n"]:
    """Returns the means of values of pixels over the `factor` x `factor` ones of each query, row by row.

    Args:
      values: [b, h, w, n] of each pixel, or [b, n] of all of them.
      factor: the pixels of the values for each query, in height and in width.

    Returns:
      [b, h w / factor ** 2, n], or [b, 1, n] for all queries.
    """
    if values.ndim == 4:
        b, h, w, n = values.shape
        values = values.reshape(b, h // factor, factor, w // factor, factor, n).mean(axis=(2, 4))
    return values.reshape(values.shape[0], -1, values.shape[-1])


def with_images(condition: Condition) -> tuple[Float[Array, "b n d"], Float[Array, "b n"] | None]:
    """Returns the tokens of a condition and those of its images as one set with weights, for one attention to all.

    The scale of a group is how often each of its tokens counts; 0 is as if they were absent.

    Raises:
      UserError: images act in some places of the network alone.
    """
    images, tokens = condition.images, condition.tokens
    if images is None:
        return tokens, condition.weights
    if images.blocks is not None:
        raise UserError("images act in some blocks alone, and here in all; leave adapter_blocks at all")
    own = jnp.ones(tokens.shape[:2]) if condition.weights is None else condition.weights
    beside = jnp.broadcast_to(images.scales[:, :, None], images.tokens.shape[:3])
    beside = beside if images.weights is None else beside * images.weights
    flat = images.tokens.reshape(len(tokens), -1, tokens.shape[-1])
    return jnp.concatenate([tokens, flat], axis=1), jnp.concatenate([own, beside.reshape(len(tokens), -1)], axis=1)


def image_context(images: ImageTokens, factor: int, place: int) -> ImageTokens:
    """Returns image tokens as one attention takes them: scales of each query, and the logarithms of the weights.

    Args:
      images: of a condition.
      factor: the pixels of the scales for each query, in height and in width.
      place: the number of the attention's place, for `images.blocks`.
    """
    weights = None if images.weights is None else jnp.log(jnp.maximum(images.weights, LEAST_WEIGHT))
    scales = at_queries(images.scales, factor)
    if images.blocks is not None:
        scales = scales * images.blocks[:, place][:, None, None]
    return ImageTokens(images.tokens, scales, weights)
