"""How many bytes a function's intermediate values take at once, estimated from its jaxpr.

XLA decides that when it compiles; this is a model of what it does with a program of matrix products, convolutions,
reductions and elementwise work, to be had in seconds and without the device:

1. Elementwise work and changes of layout are fused into what uses their result. A fused value takes memory only where a
   product reads it or where it is much smaller than what it was made of; otherwise its sources live as long as it is
   used.
2. All else is computed in the jaxpr's order, and a value dies with its last use.
3. Arguments and results take nothing here: the caller counts them (a donated state is updated in place).
4. A loop takes what one round takes, beside what it puts out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from jax.extend import core

from rdm_jax.training.flops import branches, nbytes, trace

Size = Callable[[Any], float]

_LAYOUT = re.compile(
    "broadcast_in_dim|convert_element_type|copy|expand_dims|iota|pad|reduce_precision|reshape|rev|select_n|slice|split|"
    "squeeze|stop_gradient|transpose"
)
_NOT_ELEMENTWISE = re.compile(
    "concatenate|conv_general_dilated|cum.*|dot_general|dynamic_update_slice|fft|gather|optimization_barrier|reduce_.*|"
    "scatter.*|sort"
)
_KEEP = 1.5  # a fused value is kept where its sources are this many times as large


@dataclasses.dataclass
class _Operation:
    fused: bool
    reads_fused: bool  # whether a fused operand stays fused: not so for products, which read memory
    inputs: list[int]
    outputs: list[int]
    inner: float


def peak_bytes(function: Callable[..., Any], *arguments: Any, size: Size = nbytes, platform: str = "tpu") -> int:
    """Returns an estimate of the most bytes that a call's intermediate values take at once.

    Args:
      function: what is called.
      arguments: arrays, or trees of their `jax.ShapeDtypeStruct`.
      size: the bytes that a value (its shape and type) takes, where it is not whole on one device.
      platform: whose branch of `lax.platform_dependent` is taken.
    """
    return peak_bytes_of_jaxpr(trace(function, *arguments), size, platform)


def peak_bytes_of_jaxpr(jaxpr: Any, size: Size = nbytes, platform: str = "tpu") -> int:
    """Returns the same of the function of which this is the closed jaxpr (see `peak_bytes`)."""
    return round(_Liveness(size, platform).peak(jaxpr.jaxpr))


class _Liveness:
    """The values of one jaxpr by number, and the operations on them, calls inlined."""

    def __init__(self, size: Size, platform: str) -> None:
        self._size, self._platform = size, platform
        self._sizes: list[float] = []
        self._operations: list[_Operation] = []

    def peak(self, jaxpr: Any) -> float:
        """Returns the most bytes that the intermediate values of a jaxpr take at once."""
        free = {variable: self._new(0.0) for variable in (*jaxpr.invars, *jaxpr.constvars)}
        results = self._inline(jaxpr, free)
        for value in results:
            self._sizes[value] = 0.0
        return self._run(set(results))

    def _new(self, size: float | int) -> int:
        self._sizes.append(float(size))
        return len(self._sizes) - 1

    def _inline(self, jaxpr: Any, names: dict[Any, int]) -> list[int]:
        def number(variable: Any) -> int:
            return self._new(0.0) if isinstance(variable, core.Literal) else names[variable]

        for equation in jaxpr.eqns:
            inputs = [number(variable) for variable in equation.invars]
            names.update(zip(equation.outvars, self._equation(equation, inputs), strict=True))
        return [number(variable) for variable in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[int]) -> list[int]:
        name = equation.primitive.name
        inner = list(core.jaxprs_in_params(equation.params))
        if name == "cond":
            inner = [branch.jaxpr for branch in branches(equation, self._platform)]
            inputs = inputs[1:]
        if name not in ("scan", "while") and len(inner) == 1 and _is_call(inner[0], equation, len(inputs)):
            names = dict(zip(inner[0].invars, inputs, strict=True))
            return self._inline(inner[0], names | {variable: self._new(0.0) for variable in inner[0].constvars})
        outputs = [self._new(self._size(variable.aval)) for variable in equation.outvars]
        within = max((_Liveness(self._size, self._platform).peak(jaxpr) for jaxpr in inner), default=0.0)
        fused = not inner and bool(_LAYOUT.fullmatch(name) or _is_elementwise(equation))
        self._operations.append(_Operation(fused, fused or name.startswith("reduce_"), inputs, outputs, within))
        return outputs

    def _run(self, results: set[int]) -> float:
        sources = self._sources(results)
        last: dict[int, int] = {}
        for time, operation in enumerate(self._operations):
            last.update((source, time) for value in operation.inputs for source in sources[value])
        dying: dict[int, list[int]] = {}
        for source, time in last.items():
            dying.setdefault(time, []).append(source)
        live = peak = 0.0
        for time, operation in enumerate(self._operations):
            new = sum(self._sizes[v] for v in operation.outputs if sources[v] == frozenset({v}))
            old = sum(self._sizes[v] for v in dying.get(time, ()))
            live += new - (old if operation.fused else 0.0)  # elementwise work is done in place
            peak = max(peak, live + operation.inner)
            live -= 0.0 if operation.fused else old
            live -= sum(self._sizes[v] for v in operation.outputs if v not in last and sources[v] == frozenset({v}))
        return peak

    def _sources(self, results: set[int]) -> list[frozenset[int]]:
        """Returns of each value those in memory that it is computed from where it is used: itself, if it is kept."""
        read = {v for operation in self._operations if not operation.reads_fused for v in operation.inputs} | results
        sources = [frozenset({value}) for value in range(len(self._sizes))]
        for operation in (operation for operation in self._operations if operation.fused):
            below = frozenset().union(*(sources[value] for value in operation.inputs))
            total = sum(self._sizes[value] for value in below)
            for value in operation.outputs:
                if value not in read and total < _KEEP * self._sizes[value]:
                    sources[value] = below
                elif value in read and not total:  # of arguments alone: it is made where it is read
                    sources[value] = below if value not in results else sources[value]
        return sources


def _is_call(jaxpr: Any, equation: Any, arguments: int) -> bool:
    """Returns whether an equation hands its last arguments to a jaxpr as they are, and puts out what that does."""
    pairs = (jaxpr.invars, equation.invars[-arguments:] if arguments else []), (jaxpr.outvars, equation.outvars)
    return all([v.aval.shape for v in inner] == [v.aval.shape for v in outer] for inner, outer in pairs)


def _is_elementwise(equation: Any) -> bool:
    """Returns whether every array is of one shape, and the operation none that mixes places."""
    if _NOT_ELEMENTWISE.fullmatch(equation.primitive.name):
        return False
    shapes = {variable.aval.shape for variable in (*equation.invars, *equation.outvars) if variable.aval.shape}
    return len(shapes) <= 1
