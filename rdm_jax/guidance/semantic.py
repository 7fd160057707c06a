"""Semantic diffusion guidance: Liu et al. 2021, "More Control for Free!" (https://arxiv.org/abs/2112.05744).

An image encoder that was made to read noisy pictures says how near x_t comes to a text (eq. 7; GLIDE's CLIP guidance,
https://arxiv.org/abs/2112.10741, section 2.4), and to a reference that is made as noisy anew in each step: in content
(eq. 8), in spatial structure (eq. 9), in style (eq. 10, each picture's Gram matrices its own). All terms share one look
at x_t and one at the reference. Squared differences are shares of the reference's own squares, level by level: the
released program multiplies by a constant for its encoder, and a share means the same for any encoder and any level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.core.keys import normal
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.guidance.gradient import Objective

Encode = Callable[[Float[Array, "b h w c"], Array], tuple[Float[Array, "b d"], Sequence[Float[Array, "b _ _ _"]]]]
"""x_t and its times [b] to a vector and the feature maps below it."""

FOLD = 0x5D6  # this file's number among those that draw from a step's keys


@dataclasses.dataclass(frozen=True)
class Text:
    """A text to be near to.

    Attributes:
      vector: [b, d] or one for all, in the encoder's space.
      weight: of the cosine to it; weights are numbers or [b].
    """

    vector: Any
    weight: Any


@dataclasses.dataclass(frozen=True)
class Reference:
    """A picture to be near to, and in what.

    Attributes:
      x0: [b, h, w, c] or one for all, as the network sees pictures.
      content: weight of the cosine of both vectors; None leaves a term out.
      structure: weight of the feature maps' squared differences, as shares of the reference's squares.
      style: weight of the same of their Gram matrices.
    """

    x0: Any
    content: Any = None
    structure: Any = None
    style: Any = None


def semantic(encode: Encode, terms: Sequence[Text | Reference]) -> Objective:
    """Returns the weighted sum of all terms as one objective, with one look at x_t for them together.

    Args:
      encode: the encoder of noisy pictures.
      terms: texts, and pictures with what of them counts; the latter need a plan with keys.
    """

    def near(term: Text | Reference, vector: Array, maps: Sequence[Array], info: StepInfo, t: Array) -> Array:
        """Returns the weighted likeness [b] of what was seen to one term."""
        if isinstance(term, Text):
            return term.weight * cosine(vector, term.vector)
        shape = (len(t), *jnp.shape(term.x0)[1:])
        wanted, wanted_maps = jax.lax.stop_gradient(encode(renoised(term.x0, shape, info), t))
        pairs = list(zip(maps, wanted_maps, strict=True))
        total = jnp.zeros(len(t))
        if term.content is not None:
            total += term.content * cosine(vector, wanted)
        if term.structure is not None:
            total -= term.structure * sum(relative_square(a, b) for a, b in pairs)
        if term.style is not None:
            total -= term.style * sum(relative_square(gram(a), gram(b)) for a, b in pairs)
        return total

    def measure(x_t: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, " b"]:
        """Returns the weighted sum of the likenesses of each x_t."""
        t = jnp.broadcast_to(info.t, x_t.shape[:1])
        vector, maps = encode(x_t, t)
        return jnp.sum(jnp.stack([near(term, vector, maps, info, t) for term in terms]), axis=0)

    return Objective(measure, 1.0)


def renoised(x0: Float[Array, "#b h w c"], shape: tuple[int, ...], info: StepInfo) -> Float[Array, "b h w c"]:
    """Returns alpha x0 + sigma z at a step's level, with fresh noise from each image's key.

    Raises:
      ValueError: the plan has no keys.
    """
    if info.keys is None:
        raise ValueError("a reference is made noisy in each step: give the plan its keys, `with_keys(steps, keys)`")
    noise = normal(jax.vmap(lambda key: jax.random.fold_in(key, FOLD))(info.keys), shape[1:])
    alpha, sigma = (per_image(info.coefficients[name], len(shape)) for name in ("alpha", "sigma"))
    return alpha * x0 + sigma * noise


def cosine(one: Float[Array, "b d"], other: Float[Array, "#b d"]) -> Float[Array, " b"]:
    """Returns the cosine of each pair of vectors."""
    lengths = jnp.linalg.norm(one, axis=-1) * jnp.linalg.norm(other, axis=-1)
    return jnp.sum(one * other, axis=-1) / jnp.maximum(lengths, 1e-12)


def gram(features: Float[Array, "b h w c"]) -> Float[Array, "b c c"]:
    """Returns each picture's products of channels, their means over all positions."""
    _, height, width, _ = features.shape
    return jnp.einsum("bhwc,bhwd->bcd", features, features) / (height * width)


def relative_square(one: Float[Array, "b ..."], other: Float[Array, "b ..."]) -> Float[Array, " b"]:
    """Returns the sum of squared differences as a share of the squares of `other`: 1 where `one` is nothing."""
    axes = tuple(range(1, one.ndim))
    return jnp.sum(jnp.square(one - other), axis=axes) / jnp.maximum(jnp.sum(jnp.square(other), axis=axes), 1e-12)
