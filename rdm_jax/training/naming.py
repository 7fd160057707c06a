"""Naming the styles of training: a linear head over the style encoder's vectors, which is not exported.

A network that is trained to name many styles tells styles apart that it has never seen.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

HEAD = "style_names"
"""The part of the parameters."""
SCALE = 10.0  # of the first logits; vectors have length 1


def init_head(key: Key[Array, ""], width: int, styles: int) -> dict[str, Any]:
    """Returns the head's initial parameters.

    Args:
      key: of the random numbers.
      width: the size of a vector.
      styles: how many there are.
    """
    kernel = jax.random.normal(key, (width, styles)) * width**-0.5
    return {"kernel": kernel, "scale": jnp.full((1,), SCALE)}


def naming_loss(
    head: Any, vectors: Float[Array, "n d"], styles: Int[Array, " n"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the mean cross entropy of the styles' names, and how many of them are right, in [0, 1].

    Args:
      head: its parameters.
      vectors: of images, of length 1.
      styles: the number of each image's style.
    """
    logits = head["scale"][None] * (vectors @ head["kernel"])
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, styles)
    return entropy.mean(), jnp.mean(jnp.argmax(logits, axis=-1) == styles)
