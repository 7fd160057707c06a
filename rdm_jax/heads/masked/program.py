"""What is compiled to predict masked codes: the start, a chunk of steps, and the decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.keys import image_keys
from rdm_jax.core.mesh import put
from rdm_jax.guidance.common import KnownRegion
from rdm_jax.heads.base import Plan
from rdm_jax.heads.codes import Shape, compiled_decoder
from rdm_jax.heads.compiling import Compiler
from rdm_jax.heads.masked import decoding
from rdm_jax.heads.masked.decoding import UNKNOWN, Apply, Carry, Steps
from rdm_jax.models.condition import Condition

START = 0  # the number, beside those of the steps, that the key of the start is folded with


@dataclasses.dataclass(frozen=True)
class Stage:
    """One network over the codes of one first stage.

    Attributes:
      network: the part that predicts the codes.
      first_stage: the part whose codes they are.
      method: of the network, from codes and a condition to logits.
    """

    network: str
    first_stage: str
    method: str


BASE = Stage("transformer", "autoencoder", "__call__")
FINE = Stage("fine_transformer", "fine_autoencoder", "predict")


@dataclasses.dataclass(frozen=True)
class Run:
    """What all images of a run share.

    Attributes:
      steps: those of the run.
      temperature: logits are divided by it.
      size: (h, w) of an image's codes.
      codes: [h w] the known ones, `UNKNOWN` where they are generated.
      hidden: how many more of them are masked, at random for each image.
      kept: the part of an image that is kept, and its pixels; None where none is.
      micro: the numbers behind the pooled text in the condition's vector; none if empty.
      fine: of the second stage; None where the model has one stage.
    """

    steps: Steps
    temperature: float
    size: tuple[int, int]
    codes: Int[np.ndarray, " l"]
    hidden: int = 0
    kept: tuple[KnownRegion, dict[str, UInt8[np.ndarray, "..."]]] | None = None
    micro: tuple[float, ...] = ()
    fine: Run | None = None

    @property
    def total(self) -> int:
        """The number of steps."""
        return len(self.steps.number)


@dataclasses.dataclass(frozen=True)
class State:
    """A batch in progress.

    Attributes:
      params: {part: parameters}.
      run: what is shared.
      conditions: the given and the null one.
      keys: [b, 2] the key data of the images.
      carry: of the compiled program.
      done: steps that are done.
    """

    params: Mapping[str, Any]
    run: Run
    conditions: tuple[Condition, Condition]
    keys: Any
    carry: Carry
    done: int

    @property
    def total(self) -> int:
        """All steps."""
        return self.run.total


@dataclasses.dataclass(frozen=True)
class MaskedProgram:
    """The executables of one shape (see `heads.base.Program`).

    Attributes:
      shape: what they are compiled for.
      stage: whose codes are generated.
      begin: (keys, known codes, how many are masked) to the first `Carry`.
      step: (network's parameters, conditions, keys, steps, temperature, carry) to the carry after a chunk.
      decode: (first stage's parameters, codes) to images, on all devices.
      batch: the sharding of what belongs to single images.
      replicated: the sharding of what every device has.
    """

    shape: Shape
    stage: Stage
    begin: Callable[..., Carry]
    step: Callable[..., Carry]
    decode: Callable[..., Any]
    batch: NamedSharding
    replicated: NamedSharding

    def start(
        self, plan: Plan, params: Mapping[str, Any], indices: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]
    ) -> State:
        """Returns the state of a batch before its first chunk."""
        data = np.asarray(jax.random.key_data(image_keys(plan.request.seed, jnp.asarray(indices, jnp.int32))))
        conditions, keys = put((conditions_of(plan, rows), data), (self.batch, self.batch))
        return self.start_run(params, plan.run, conditions, keys)

    def start_run(
        self, params: Mapping[str, Any], run: Run, conditions: tuple[Condition, Condition], keys: Any
    ) -> State:
        """Returns the state of a batch before the first chunk of a run.

        Args:
          params: {part: parameters} on the devices.
          run: what the images share.
          conditions: the given and the null one, on the devices.
          keys: [b, 2] the key data of the images, on the devices.
        """
        codes, hidden = put((run.codes, np.int32(run.hidden)), self.replicated)
        return State(params, run, conditions, keys, self.begin(keys, codes, hidden), 0)

    def advance(self, state: State) -> State:
        """Returns the state after one more chunk."""
        steps = put(state.run.steps.chunk(state.done, self.shape.chunk), self.replicated)
        temperature = put(np.float32(state.run.temperature), self.replicated)
        inputs = state.conditions, state.keys, steps, temperature
        carry = self.step(state.params[self.stage.network], *inputs, state.carry)
        return dataclasses.replace(state, carry=jax.block_until_ready(carry), done=state.done + self.shape.chunk)

    def preview(self, state: State) -> Float[np.ndarray, "b h w 3"]:
        """Returns the images of all codes that were predicted last, those that are masked again among them."""
        return np.asarray(self.decode(state.params[self.stage.first_stage], state.carry.predicted))

    finish = preview


def conditions_of(plan: Plan, rows: Int[np.ndarray, " b"]) -> tuple[Condition, Condition]:
    """Returns the given and the null condition of some images, with the micro-conditions in their vectors."""
    context, micro = plan.context.rows(rows), np.asarray(plan.run.micro, np.float32)
    given, null = (_with_micro(one, micro) for one in (context.given, context.null))
    return given, null


def _with_micro(condition: Condition, micro: Float[np.ndarray, " m"]) -> Condition:
    vector = condition.vector
    if vector is not None:
        vector = np.concatenate([vector, np.broadcast_to(micro, (len(vector), len(micro)))], axis=1, dtype=np.float32)
    return Condition(condition.tokens, condition.weights, vector=vector, images=condition.images)


def network_from(module: Any, params: Any, size: tuple[int, int], method: str = BASE.method) -> Apply:
    """Returns the function from codes and a condition to logits.

    Args:
      module: the transformer.
      params: its parameters.
      size: (h, w) of the codes, which networks of images of any size take as a map.
      method: of the module.
    """

    def apply(codes: Int[Array, "b l"], condition: Condition) -> Float[Array, "b l k"]:
        """Returns the logits of all codes."""
        tokens = jnp.where(codes == UNKNOWN, module.mask_token, codes)
        tokens = tokens.reshape(-1, *size) if "any_size" in module.supports else tokens
        logits: Any = module.apply({"params": params}, tokens, condition, method=method)
        return logits.reshape(*codes.shape, -1)

    return apply


def compile_program(
    shape: Shape, run: Run, conditions: tuple[Condition, Condition], compiler: Compiler, stage: Stage = BASE
) -> MaskedProgram:
    """Compiles the program of a shape.

    Args:
      shape: what the program is for.
      run: any one of the shape.
      conditions: the given and the null one of a batch, or their shapes.
      compiler: of the model.
      stage: whose codes are generated.
    """
    bundle: Bundle = compiler.bundle
    module, replicated, batch = getattr(bundle, stage.network), compiler.replicated, compiler.batch(shape.batch)
    tokens = shape.tokens

    def start(keys: Array, codes: Int[Array, " l"], hidden: Int[Array, ""]) -> Carry:
        """Returns the state before the first step."""
        own = jax.vmap(lambda key: jax.random.fold_in(key, START))(jax.random.wrap_key_data(keys))
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (tokens,)))(own)
        return decoding.start(jnp.broadcast_to(codes, (shape.batch, tokens)), hidden, uniform)

    def advance(params: Any, conditions: Any, keys: Array, steps: Steps, temperature: Array, carry: Carry) -> Carry:
        """Returns the state after a chunk of steps."""
        given, null = conditions
        apply, keys = network_from(module, params, shape.size, stage.method), jax.random.wrap_key_data(keys)
        return decoding.advance(apply, carry, keys, steps, temperature, given, null if shape.guided else None)

    keys = np.zeros((shape.batch, 2), np.uint32)
    arguments: Any = (conditions, keys, run.steps.chunk(0, shape.chunk), np.float32(0.0))
    arguments = jax.eval_shape(lambda tree: tree, arguments)
    begin = arguments[1], jax.ShapeDtypeStruct((tokens,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    carry = jax.eval_shape(start, *begin)
    places = (replicated, batch, batch, replicated, replicated, batch)
    return MaskedProgram(
        shape=shape,
        stage=stage,
        begin=compiler.once(
            ("start codes", shape.batch, shape.size),
            lambda: compiler.compile(start, begin, (batch, replicated, replicated), batch),
        ),
        step=compiler.compile(advance, (bundle.params[stage.network], *arguments, carry), places, batch),
        decode=compiled_decoder(shape, carry.codes, compiler, stage.first_stage),
        batch=batch,
        replicated=replicated,
    )
