"""Cached decoding of codes as pure functions: `start`, then `advance` over the positions in chunks, under `jax.jit`."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from rdm_jax.heads.autoregressive.sampling import Sampling, choose, filtered, guided, uniforms
from rdm_jax.models.condition import Condition
from rdm_jax.models.time_mix_transformer import TimeMixTransformer
from rdm_jax.models.token_transformer import TokenTransformer

Transformer = TokenTransformer | TimeMixTransformer
UNKNOWN = -1


@flax.struct.dataclass
class Carry:
    """The state of decoding a batch of images.

    Attributes:
      codes: [b, num_tokens] in row-major order, `UNKNOWN` where they are still to be sampled.
      cache: of b images; with guidance of 2b, the conditional ones first.
    """

    codes: Any
    cache: Any


def start(
    module: Transformer,
    params: Any,
    condition: Condition,
    null: Condition | None = None,
    codes: Int[Array, "b l"] | None = None,
) -> Carry:
    """Returns the state before the first position.

    Args:
      module: the transformer.
      params: its parameters.
      condition: tokens [b, n, d], weights [b, n] or None.
      null: the condition of the unconditional logits, of the same shapes; None samples without guidance.
      codes: [b, num_tokens] codes that are kept, `UNKNOWN` where they are to be sampled; None samples all.
    """
    batch = condition.tokens.shape[0]
    both = condition if null is None else jax.tree.map(lambda c, u: jnp.concatenate([c, u]), condition, null)
    if codes is None:
        codes = jnp.full((batch, module.num_tokens), UNKNOWN, jnp.int32)
    cache: Any = module.apply({"params": params}, both, method="init_cache")
    return Carry(jnp.asarray(codes, jnp.int32), cache)


def advance(
    module: Transformer,
    params: Any,
    carry: Carry,
    keys: Key[Array, " b"],
    sampling: Sampling,
    first: Int[Array, ""] | int,
    count: int,
) -> Carry:
    """Returns the state after the positions [first, first + count).

    Guidance takes place if the cache holds twice as many rows as there are images.

    Args:
      module: the transformer.
      params: its parameters.
      carry: the state after the positions before `first`.
      keys: [b] of the images; the uniform number at a position comes from the key folded with it.
      sampling: traced settings.
      first: the first position, traced.
      count: how many positions, static; they may not pass the last.
    """

    def step(offset: Array, carry: Carry) -> Carry:
        """Decodes one position."""
        position = first + offset
        return step_with(module, params, carry, uniforms(keys, position), sampling, position)

    return jax.lax.fori_loop(0, count, step, carry)


def step_with(
    module: Transformer, params: Any, carry: Carry, uniform: Array, sampling: Sampling, position: Int[Array, ""]
) -> Carry:
    """Returns the state after one more position, its codes chosen by the given uniform numbers [b]."""
    codes, batch = carry.codes, carry.codes.shape[0]
    rows = carry.cache.keys.shape[1] // batch
    before = jnp.where(position == 0, module.start_token, codes[:, jnp.maximum(position - 1, 0)])
    inputs = carry.cache, jnp.tile(before, rows), position
    decoded: Any = module.apply({"params": params}, *inputs, method="decode_step")
    logits, cache = decoded
    if rows == 2:
        logits = guided(logits[:batch], logits[batch:], sampling.guidance_scale)
    code = choose(filtered(logits, sampling), uniform)
    code = jnp.where(codes[:, position] == UNKNOWN, code, codes[:, position])
    return Carry(codes.at[:, position].set(code), cache)
