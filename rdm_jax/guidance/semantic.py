"""Semantic diffusion guidance: Liu et al. 2021, "More Control for Free!" (https://arxiv.org/abs/2112.05744).

An image encoder that was made to read noisy pictures says how near x_t comes to a text (eq. 7; GLIDE's CLIP guidance,
https://arxiv.org/abs/2112.10741, section 2.4), and to a reference that is made as noisy anew in each step: in content
(eq. 8), in spatial structure (eq. 9), in style (eq. 10, each picture's Gram matrices its own). All terms share one look
at x_t and one at the reference.
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
class Reference:
    """A picture to be near to, and in what.

    Attributes:
      x0: [b, h, w, c] or one for all, as the network sees pictures.
      content: weight of the cosine of both vectors.
      structure: weight of the feature maps' squared differences.
      style: weight of the squared differences of their Gram matrices.
    """

    x0: Any
    content: Any = 0.0
    structure: Any = 0.0
    style: Any = 0.0


def semantic(
    encode: Encode, text: Float[Array, "#b d"] | None = None, text_weight: Any = 0.0, reference: Reference | None = None
) -> Objective:
    """Returns the weighted sum of the terms as one objective.

    Args:
      encode: the encoder of noisy pictures.
      text: the vector of a text in the encoder's space, for each image or one for all; None for none.
      text_weight: of the cosine to it; weights are numbers or [b].
      reference: a picture and what of it counts; needs a plan with keys. None for none.
    """

    def measure(x_t: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, " b"]:
        t = jnp.broadcast_to(info.t, x_t.shape[:1])
        vector, maps = encode(x_t, t)
        total = jnp.zeros(len(x_t))
        if text is not None:
            total += text_weight * cosine(vector, text)
        if reference is not None:
            wanted, wanted_maps = jax.lax.stop_gradient(encode(renoised(reference.x0, x_t.shape, info), t))
            total += reference.content * cosine(vector, wanted)
            total -= reference.structure * sum(map(_mean_square, maps, wanted_maps))
            total -= reference.style * sum(
                _mean_square(gram(a), gram(b)) for a, b in zip(maps, wanted_maps, strict=True)
            )
        return total

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


def _mean_square(one: Float[Array, "b ..."], other: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return jnp.mean(jnp.square(one - other), axis=tuple(range(1, one.ndim)))
