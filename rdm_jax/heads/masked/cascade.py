"""Two stages of masked codes, one after the other: the second one predicts finer codes from those of the first.

Muse, https://arxiv.org/abs/2301.00704, section 2.6. The program of one stage runs twice; between the two runs the
second network reads the coarse codes, once for all of its steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax.heads.base import Plan
from rdm_jax.heads.codes import Shape
from rdm_jax.heads.compiling import Compiler
from rdm_jax.heads.masked.program import FINE, MaskedProgram, State, compile_program, conditions_of

FINE_STREAM = 2**30  # what an image's key is folded with for the second stage; no step has such a number


@dataclasses.dataclass(frozen=True)
class CascadeShape:
    """What the programs of two stages are compiled for.

    Attributes:
      base: of the first stage.
      fine: of the second stage; its context is that of the first one.
    """

    base: Shape
    fine: Shape


@dataclasses.dataclass(frozen=True)
class CascadeState:
    """A batch in progress.

    Attributes:
      base: of the first stage.
      fine: of the second one; None before it begins.
    """

    base: State
    fine: State | None = None

    @property
    def done(self) -> int:
        """Steps of both stages that are done."""
        return self.base.done + (self.fine.done if self.fine else 0)

    @property
    def total(self) -> int:
        """All steps of both stages."""
        assert self.base.run.fine is not None
        return self.base.total + self.base.run.fine.total


@dataclasses.dataclass(frozen=True)
class CascadeProgram:
    """The executables of one shape (see `heads.base.Program`).

    Attributes:
      base: the program of the first stage.
      fine: that of the second one.
      read: (second network's parameters, coarse codes, conditions, keys) to the second stage's conditions and keys.
      size: (height, width) of a finished image.
    """

    base: MaskedProgram
    fine: MaskedProgram
    read: Callable[..., Any]
    size: tuple[int, int]

    def start(
        self, plan: Plan, params: Mapping[str, Any], indices: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]
    ) -> CascadeState:
        """Returns the state of a batch before its first chunk."""
        return CascadeState(self.base.start(plan, params, indices, rows))

    def advance(self, state: CascadeState) -> CascadeState:
        """Returns the state after one more chunk; the second stage begins after the last one of the first."""
        if state.fine is not None:
            return CascadeState(state.base, self.fine.advance(state.fine))
        base = self.base.advance(state.base)
        return CascadeState(base, self._begun(base) if base.done == base.total else None)

    def _begun(self, base: State) -> State:
        """Returns the state of the second stage before its first chunk."""
        run, network = base.run.fine, base.params[FINE.network]
        assert run is not None
        conditions, keys = self.read(network, base.carry.codes, base.conditions, base.keys)
        return self.fine.start_run(base.params, run, conditions, keys)

    def preview(self, state: CascadeState) -> Float[np.ndarray, "b h w 3"]:
        """Returns the images of the codes that were predicted last, those of the first stage enlarged."""
        if state.fine is not None and state.fine.done:
            return self.fine.preview(state.fine)
        images = self.base.preview(state.base)
        return np.asarray(jax.image.resize(images, (len(images), *self.size, 3), "nearest"))

    def finish(self, state: CascadeState) -> Float[np.ndarray, "b h w 3"]:
        """Returns the images of a state after its last chunk."""
        assert state.fine is not None
        return self.fine.finish(state.fine)


def compile_cascade(shape: CascadeShape, plan: Plan, compiler: Compiler) -> CascadeProgram:
    """Compiles the programs of both stages.

    Args:
      shape: what the programs are for.
      plan: any plan of the shape.
      compiler: of the model.
    """
    bundle, rows = compiler.bundle, np.zeros(shape.base.batch, np.int64)
    module, replicated, batch = bundle.fine_transformer, compiler.replicated, compiler.batch(shape.base.batch)
    conditions = conditions_of(plan, rows)

    def read(params: Any, coarse: Int[Array, "b m"], conditions: Any, keys: Array) -> Any:
        """Returns the conditions of the second stage, and the key data of its random numbers."""
        own = jax.vmap(lambda key: jax.random.fold_in(key, FINE_STREAM))(jax.random.wrap_key_data(keys))
        given, null = (module.apply({"params": params}, coarse, one, method="read") for one in conditions)
        return (given, null), jax.random.key_data(own)

    keys = jax.ShapeDtypeStruct((shape.base.batch, 2), jnp.uint32)
    coarse = jax.ShapeDtypeStruct((shape.base.batch, shape.base.tokens), jnp.int32)
    arguments = bundle.params[FINE.network], coarse, conditions, keys
    fine, _ = jax.eval_shape(read, *arguments)
    height, width = (bundle.fine_autoencoder.downsampling * side for side in shape.fine.size)
    return CascadeProgram(
        base=compile_program(shape.base, plan.run, conditions, compiler),
        fine=compile_program(shape.fine, plan.run.fine, fine, compiler, FINE),
        read=compiler.compile(read, arguments, (replicated, batch, batch, batch), batch),
        size=(height, width),
    )
