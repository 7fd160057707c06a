"""Parallel decoding of masked codes as pure functions (MaskGIT, https://arxiv.org/abs/2202.04200, section 3.2).

Each step samples a code at every masked position at once, keeps those of the highest probability, and masks the others
again. How many are masked follows a schedule (Muse, https://arxiv.org/abs/2301.00704, section 2.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from rdm_jax.core.errors import UserError
from rdm_jax.models.condition import Condition

UNKNOWN = -1  # in place of a code that is masked

Apply = Callable[[Int[Array, "b l"], Condition], Float[Array, "b l k"]]
"""Codes, `UNKNOWN` where they are masked, and a condition to logits."""

SCHEDULES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "cosine": lambda ratio: np.cos(ratio * np.float32(math.pi / 2)),
    "linear": lambda ratio: np.float32(1) - ratio,
}
"""From fractions of the steps to the fractions of the codes that are still masked, by the names of the options."""


@flax.struct.dataclass
class Steps:
    """What changes from step to step; axis 0 counts the steps of a run.

    Attributes:
      number: [s] of the step in a run of all steps, from 1 on.
      left: [s] how many codes are masked after it; 0 after the last one.
      choice_temperature: [s] of the noise in the choice of the codes that are kept.
      guidance: [s] the guidance scale.
    """

    number: Any
    left: Any
    choice_temperature: Any
    guidance: Any

    def chunk(self, first: int, count: int) -> Steps:
        """Returns some of the steps."""
        return jax.tree.map(lambda leaf: leaf[first : first + count], self)


@flax.struct.dataclass
class Carry:
    """The state of decoding a batch of images.

    Attributes:
      codes: [b, l] in row-major order, `UNKNOWN` where they are masked.
      predicted: [b, l] the codes of the last step before any were masked again.
    """

    codes: Any
    predicted: Any


def codes_left(schedule: str, steps: int, tokens: int, masked: float = 1.0) -> Int[np.ndarray, " s"]:
    """Returns how many codes of an image are masked after each step: 1 or more, and 0 after the last one.

    The product is that of the published programs, in float32: where it is a whole number up to rounding, they take one
    less.

    Args:
      schedule: a name in `SCHEDULES`.
      steps: of a whole run.
      tokens: the codes of an image.
      masked: the fraction of them that the run starts with, masked.
    """
    ratio = np.arange(1, steps + 1, dtype=np.float32) / np.float32(steps)
    left = np.floor(np.float32(tokens) * (SCHEDULES[schedule](ratio) * np.float32(masked))).astype(np.int32)
    return np.append(np.maximum(left[:-1], 1), np.int32(0))


def plan_steps(
    schedule: str,
    steps: int,
    tokens: int,
    *,
    masked: float = 1.0,
    choice_temperature: float = 4.5,
    guidance_scale: float = 1.0,
    growing: bool = False,
) -> Steps:
    """Returns all steps of a run.

    Args:
      schedule: a name in `SCHEDULES`.
      steps: how many.
      tokens: the codes of an image.
      masked: the fraction of them that is generated.
      choice_temperature: of the first step; it falls linearly to 0 in the last one.
      guidance_scale: of the last step.
      growing: whether the scale grows linearly to it, from 1 before the first step; otherwise it is that of all steps.
    """
    number = np.arange(1, steps + 1, dtype=np.int32)
    weight = number / np.float32(steps) if growing else np.ones(steps, np.float32)
    return Steps(
        number=number,
        left=codes_left(schedule, steps, tokens, masked),
        choice_temperature=np.linspace(choice_temperature, 0.0, steps, dtype=np.float32),
        guidance=(1.0 + (guidance_scale - 1.0) * weight).astype(np.float32),
    )


def check_codes(codes: Int[np.ndarray, "*any"], num_codes: int) -> Int[np.ndarray, "*any"]:
    """Returns codes, `UNKNOWN` ones among them; raises UserError if one is none of `num_codes`."""
    wrong = codes[(codes != UNKNOWN) & ((codes < 0) | (codes >= num_codes))]
    if wrong.size:
        raise UserError(
            f"code {wrong[0]} is out of range; the first stage has codes 0 to {num_codes - 1}, and {UNKNOWN} stands "
            "for a masked one"
        )
    return codes


def start(codes: Int[Array, "b l"], count: Int[Array, ""] | int, uniform: Float[Array, "b l"]) -> Carry:
    """Returns the state before the first step.

    Args:
      codes: known codes, `UNKNOWN` where they are to be generated.
      count: how many more are masked: those of the smallest numbers.
      uniform: a random number for each.
    """
    rank = jnp.argsort(jnp.argsort(uniform, axis=-1), axis=-1)
    codes = jnp.where(rank < count, UNKNOWN, codes)
    return Carry(codes, jnp.maximum(codes, 0))


def advance(
    apply: Apply,
    carry: Carry,
    keys: Key[Array, " b"],
    steps: Steps,
    temperature: Float[Array, ""] | float,
    condition: Condition,
    null: Condition | None = None,
) -> Carry:
    """Returns the state after some steps.

    Args:
      apply: the network.
      carry: the state before them.
      keys: [b] of the images; the random numbers of a step come from the key folded with its number.
      steps: the steps, traced.
      temperature: logits are divided by it.
      condition: of the images.
      null: the condition of the unconditional logits; None without guidance.
    """

    def one(carry: Carry, step: Steps) -> tuple[Carry, None]:
        """Returns the state after one step."""
        logits = guided_logits(apply, carry.codes, step.guidance, condition, null)
        pairs = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, step.number)))(keys)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(pairs[:, 0])
        choice = jax.vmap(lambda key: jax.random.gumbel(key, carry.codes.shape[1:]))(pairs[:, 1])
        return step_with(carry, logits / temperature, noise, choice, step), None

    return jax.lax.scan(one, carry, steps)[0]


def guided_logits(
    apply: Apply, codes: Int[Array, "b l"], scale: Float[Array, ""], condition: Condition, null: Condition | None
) -> Float[Array, "b l k"]:
    """Returns u + scale (c - u) of the conditional and unconditional logits; the conditional ones without `null`."""
    if null is None:
        return apply(codes, condition)
    both = jax.tree.map(lambda c, u: jnp.concatenate([c, u]), condition, null)
    conditional, unconditional = jnp.split(apply(jnp.concatenate([codes, codes]), both), 2)
    return unconditional + scale * (conditional - unconditional)


def step_with(
    carry: Carry,
    logits: Float[Array, "b l k"],
    noise: Float[Array, "b l k"],
    choice: Float[Array, "b l"],
    step: Steps,
) -> Carry:
    """Returns the state after one step by the given Gumbel noises.

    Masked again are the codes whose log-probability, with noise, is below that of the n-th; known codes never are.

    Args:
      carry: the state before it.
      logits: after guidance and temperature.
      noise: of the choice of codes: the most probable one is that of the largest sum with its logit.
      choice: of the choice of the codes that are kept.
      step: without its axis.
    """
    masked = carry.codes == UNKNOWN
    predicted = jnp.where(masked, jnp.argmax(logits + noise, axis=-1), carry.codes)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), predicted[..., None], axis=-1)[..., 0]
    confidence = jnp.where(masked, log_p + step.choice_temperature * choice, jnp.inf)
    most = jnp.maximum(jnp.sum(masked, axis=-1) - 1, 1)  # every step keeps one or more
    count = jnp.where(step.left == 0, 0, jnp.clip(step.left, 1, most))
    cutoff = jnp.take_along_axis(jnp.sort(confidence, axis=-1), count[:, None], axis=-1)
    again = confidence < cutoff
    return Carry(jnp.where(again, UNKNOWN, predicted), predicted)
