"""From the logits of the next code to a code: guidance, temperature, top-k and top-p, in this order, then the choice.

The order is that of RARM (https://arxiv.org/abs/2204.11824), which has no top-p; nucleus sampling follows top-k
(https://arxiv.org/abs/1904.09751, section 3.1). Every setting is an array, so that none needs another compilation.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rdm_jax.core.errors import UserError


@flax.struct.dataclass
class Sampling:
    """How codes are chosen from logits; every field is a scalar, traced.

    Attributes:
      temperature: logits are divided by it; above 0.
      top_k: only the k most probable codes remain, and those that tie with the k-th; 0 keeps all.
      top_p: only the most probable codes remain whose probabilities add up to p, in (0, 1]; 1 keeps all.
      guidance_scale: of the conditional over the unconditional logits; 1 is the conditional model.
    """

    temperature: Any = 1.0
    top_k: Any = 0
    top_p: Any = 1.0
    guidance_scale: Any = 1.0


def check_sampling(
    *, temperature: float, top_k: int | None, top_p: float, guidance_scale: float, num_codes: int
) -> Sampling:
    """Returns valid settings as `Sampling`.

    Raises:
      UserError: the temperature is not above 0, top_k is not in [0, num_codes], top_p is not in (0, 1], or the guidance
        scale is below 0; or one of them is not finite.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UserError(
            f"temperature {temperature:g} is not allowed; give more than 0, or top_k 1 for the most probable code at "
            "every position"
        )
    if not 0 <= (top_k or 0) <= num_codes:
        raise UserError(f"top_k {top_k} is not allowed; give 1 to {num_codes}, the number of codes, or 0 for all")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p {top_p:g} is not allowed; give more than 0 and at most 1, which keeps all codes")
    if not (guidance_scale >= 0 and math.isfinite(guidance_scale)):
        raise UserError(f"guidance_scale {guidance_scale:g} is not allowed; give 0 or more, 1 for no guidance")
    return Sampling(temperature, top_k or 0, top_p, guidance_scale)


def guided(
    conditional: Float[Array, "*b k"], unconditional: Float[Array, "*b k"], scale: Float[Array, ""] | float
) -> Float[Array, "*b k"]:
    """Returns u + scale (c - u), classifier-free guidance of logits (https://arxiv.org/abs/2207.12598, equation 6)."""
    return unconditional + scale * (conditional - unconditional)


def filtered(logits: Float[Array, "*b k"], sampling: Sampling) -> Float[Array, "*b k"]:
    """Returns the logits by temperature, those of codes outside top-k or top-p at minus infinity.

    Ties with the last code that remains remain too.

    Args:
      logits: [..., num_codes] after guidance.
      sampling: its guidance scale is not read.
    """
    logits = logits / sampling.temperature
    descending = -jnp.sort(-logits, axis=-1)
    codes = logits.shape[-1]
    k = jnp.where(jnp.asarray(sampling.top_k) > 0, sampling.top_k, codes)
    least = _at(descending, jnp.broadcast_to(k - 1, logits.shape[:-1]))
    descending = jnp.where(descending < least, -jnp.inf, descending)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    nucleus = jnp.sum(before < sampling.top_p, axis=-1)
    # A sum of probabilities may round to 1 before the last code.
    nucleus = jnp.where(jnp.asarray(sampling.top_p) < 1.0, nucleus, codes)
    least = jnp.maximum(least, _at(descending, nucleus - 1))
    return jnp.where(logits < least, -jnp.inf, logits)


def choose(logits: Float[Array, "*b k"], uniform: Float[Array, "*b"]) -> Int[Array, "*b"]:
    """Returns the first code whose cumulative probability, in the order of the codes, exceeds the uniform number.

    Args:
      logits: [..., num_codes], minus infinity for codes that are excluded.
      uniform: [...] in [0, 1).
    """
    cumulative = jnp.cumsum(jax.nn.softmax(logits, axis=-1), axis=-1)
    return jnp.argmax(cumulative > uniform[..., None] * cumulative[..., -1:], axis=-1).astype(jnp.int32)


def uniforms(keys: Key[Array, " b"], position: Int[Array, ""] | int) -> Float[Array, " b"]:
    """Returns a uniform number in [0, 1) for each image at a position, from the image's own key."""
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, position)))(keys)


def _at(values: Float[Array, "*b k"], index: Int[Array, "*b"]) -> Float[Array, "*b 1"]:
    return jnp.take_along_axis(values, index[..., None], axis=-1)
