"""What is compiled to generate tokens: the cache of the conditions, a chunk of positions, and the decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from rdm_jax.bundle import Bundle
from rdm_jax.core.keys import image_keys
from rdm_jax.core.mesh import put
from rdm_jax.heads.autoregressive import decoding
from rdm_jax.heads.autoregressive.decoding import Carry
from rdm_jax.heads.autoregressive.sampling import Sampling
from rdm_jax.heads.base import Plan
from rdm_jax.heads.codes import Shape, compiled_decoder
from rdm_jax.heads.compiling import Compiler
from rdm_jax.models.condition import Condition


@dataclasses.dataclass(frozen=True)
class State:
    """A batch in progress.

    Attributes:
      params: {part: parameters}.
      sampling: the options, traced.
      keys: [b, 2] the key data of the images.
      carry: of the compiled program.
      done: positions that are decoded.
      total: all positions.
    """

    params: Mapping[str, Any]
    sampling: Sampling
    keys: Any
    carry: Carry
    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class AutoregressiveProgram:
    """The executables of one shape (see `heads.base.Program`).

    Attributes:
      shape: what they are compiled for.
      begin: (transformer parameters, given and null condition) to the first `Carry`.
      step: (transformer parameters, `Sampling`, keys, first position, carry) to the carry after a chunk.
      decode: (autoencoder parameters, codes) to images, on all devices.
      batch: the sharding of what belongs to single images.
      replicated: the sharding of what every device has.
    """

    shape: Shape
    begin: Callable[..., Carry]
    step: Callable[..., Carry]
    decode: Callable[..., Any]
    batch: NamedSharding
    replicated: NamedSharding

    def start(
        self, plan: Plan, params: Mapping[str, Any], indices: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]
    ) -> State:
        """Returns the state of a batch before its first chunk."""
        keys = jax.random.key_data(image_keys(plan.request.seed, jnp.asarray(indices, jnp.int32)))
        conditions, keys = put((conditions_of(plan, rows), np.asarray(keys)), (self.batch, self.batch))
        carry = self.begin(params["transformer"], *conditions)
        sampling = put(jax.tree.map(np.asarray, plan.run.sampling), self.replicated)
        return State(params, sampling, keys, carry, 0, self.shape.tokens)

    def advance(self, state: State) -> State:
        """Returns the state after one more chunk."""
        first = put(np.int32(state.done), self.replicated)
        carry = self.step(state.params["transformer"], state.sampling, state.keys, first, state.carry)
        return dataclasses.replace(state, carry=jax.block_until_ready(carry), done=state.done + self.shape.chunk)

    def preview(self, state: State) -> Float[np.ndarray, "b h w 3"]:
        """Returns the images of the codes so far; positions that are still unknown have code 0."""
        return np.asarray(self.decode(state.params["autoencoder"], state.carry.codes))

    finish = preview


def conditions_of(plan: Plan, rows: Int[np.ndarray, " b"]) -> tuple[Condition, Condition]:
    """Returns the given and the null condition of some images."""
    context = plan.context.rows(rows)
    given, null = (Condition(one.tokens, one.weights, images=one.images) for one in (context.given, context.null))
    return given, null


def compile_program(shape: Shape, plan: Plan, compiler: Compiler) -> AutoregressiveProgram:
    """Compiles the program of a shape.

    Args:
      shape: what the program is for.
      plan: any plan of the shape, for the shapes of its conditions.
      compiler: of the model.
    """
    bundle: Bundle = compiler.bundle
    module, replicated, batch = bundle.transformer, compiler.replicated, compiler.batch(shape.batch)

    def start(params: Any, given: Condition, null: Condition) -> Carry:
        """Returns the state before the first position."""
        return decoding.start(module, params, given, null if shape.guided else None)

    def advance(params: Any, sampling: Sampling, keys: Array, first: Int[Array, ""], carry: Carry) -> Carry:
        """Returns the state after a chunk of positions."""
        return decoding.advance(module, params, carry, jax.random.wrap_key_data(keys), sampling, first, shape.chunk)

    params = bundle.params["transformer"]
    conditions = jax.eval_shape(lambda tree: tree, conditions_of(plan, np.zeros(shape.batch, np.int64)))
    carry = jax.eval_shape(start, params, *conditions)
    carry_places = _carry_places(carry, batch)
    keys, first = jax.ShapeDtypeStruct((shape.batch, 2), jnp.uint32), jax.ShapeDtypeStruct((), jnp.int32)
    sampling = jax.eval_shape(lambda tree: tree, jax.tree.map(np.asarray, plan.run.sampling))
    arguments = (params, sampling, keys, first, carry)
    return AutoregressiveProgram(
        shape=shape,
        begin=compiler.compile(start, (params, *conditions), (replicated, batch, batch), carry_places),
        step=compiler.compile(
            advance, arguments, (replicated, replicated, batch, replicated, carry_places), carry_places
        ),
        decode=compiled_decoder(shape, carry.codes, compiler),
        batch=batch,
        replicated=replicated,
    )


def _carry_places(carry: Carry, batch: NamedSharding) -> Carry:
    """Returns the sharding of each array of a carry: caches have the layers before the images."""
    layered = NamedSharding(batch.mesh, PartitionSpec(None, *batch.spec))

    def place(leaf: Any) -> NamedSharding:
        """Returns the sharding of one array."""
        return layered if leaf.ndim == 5 else batch

    return jax.tree.map(place, carry)
