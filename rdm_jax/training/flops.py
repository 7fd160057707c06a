"""What a function costs, counted in its jaxpr: the products of matrices and convolutions, and the bytes they touch.

XLA's own count is of the program that one backend compiles: a CPU widens bfloat16, filters 3x3 kernels by fewer
products and counts the body of a loop once. This one is of the mathematics, the same on every machine, uncompiled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

Jaxpr = Any  # jax.extend.core's Jaxpr and JaxprEqn, which carry no types
Equation = Any


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a function costs.

    Attributes:
      flops: of matrix products and convolutions, 2 for a multiplication and an addition; products with the zeros of
        padding and of dilation are left out. Elementwise work is not counted.
      float32_flops: those of `flops` whose operands have more than 16 bits.
      bytes: the operands and results of those products, each touched once. All else is taken to be fused into them, so
        this is the least traffic, not the most.
      unknown_loops: how many `while` loops were counted once for want of a number of rounds.
    """

    flops: float = 0.0
    float32_flops: float = 0.0
    bytes: float = 0.0
    unknown_loops: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Returns what both cost together."""
        return Counts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def times(self, rounds: int) -> Counts:
        """Returns what it costs `rounds` times over; a loop of unknown length stays one."""
        return Counts(self.flops * rounds, self.float32_flops * rounds, self.bytes * rounds, self.unknown_loops)


def count(function: Callable[..., Any], *arguments: Any, platform: str = "tpu") -> Counts:
    """Returns what a call costs, from the shapes alone.

    A scan counts as many times as it is long, a `cond` as its most expensive branch, a `while` once, a `shard_map` on
    all its devices, a rematerialized block as often as it is computed. Kernels whose inside JAX does not show (cuDNN's
    attention) count nothing.

    Args:
      function: what is called.
      arguments: arrays, or trees of their `jax.ShapeDtypeStruct`.
      platform: whose branch of `lax.platform_dependent` is counted ("cpu", "cuda", "tpu").
    """
    return count_jaxpr(trace(function, *arguments), platform)


def trace(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the closed jaxpr of a call, without what does not reach a result, as a compiler would have it."""
    return live(jax.make_jaxpr(function)(*arguments))


def live(closed: Any) -> Any:
    """Returns a closed jaxpr without what does not reach a result."""
    kept, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    return core.ClosedJaxpr(kept, closed.consts)


def count_jaxpr(jaxpr: Any, platform: str = "tpu") -> Counts:
    """Returns what the function costs of which this is the closed jaxpr (of `trace`; see `count`)."""
    return _count(jaxpr.jaxpr, platform)


def _count(jaxpr: Jaxpr, platform: str) -> Counts:
    return _sum(_count_equation(equation, platform) for equation in jaxpr.eqns)


def _count_equation(equation: Equation, platform: str) -> Counts:
    name = equation.primitive.name
    if name in _PRODUCTS:
        return _product(equation, _PRODUCTS[name](equation))
    if name == "cond":
        costs = [_count(branch.jaxpr, platform) for branch in branches(equation, platform)]
        return max(costs, key=lambda cost: cost.flops)
    inner = _sum(_count(jaxpr, platform) for jaxpr in core.jaxprs_in_params(equation.params))
    if name == "scan":
        return inner.times(equation.params["length"])
    if name == "while":
        return inner + Counts(unknown_loops=1)
    if name == "shard_map":
        axes = next(value for key, value in equation.params.items() if key.endswith("manual_axes"))
        return inner.times(math.prod(equation.params["mesh"].shape[axis] for axis in axes))
    return inner


def branches(equation: Equation, platform: str) -> list[Any]:
    """Returns the branches that a `cond` may take: of `lax.platform_dependent` the platform's own alone."""
    every = equation.params["branches"]
    platforms = equation.params.get("branches_platforms")
    if platforms is None:
        return list(every)
    own = [b for b, names in zip(every, platforms, strict=True) if names is not None and platform in names]
    rest = [b for b, names in zip(every, platforms, strict=True) if names is None]
    return (own or rest or list(every))[:1]


def _sum(counts: Iterable[Counts]) -> Counts:
    return sum(counts, Counts())


def _product(equation: Equation, flops: float) -> Counts:
    operands = [variable.aval for variable in equation.invars]
    wide = max(operand.dtype.itemsize for operand in operands) > 2
    return Counts(flops, flops if wide else 0.0, float(sum(map(nbytes, [*operands, equation.outvars[0].aval]))))


def nbytes(array: Any) -> int:
    """Returns the bytes of an array, or of its abstract shape."""
    return math.prod(array.shape) * array.dtype.itemsize


def _dot_flops(equation: Equation) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _convolution_flops(equation: Equation) -> float:
    params = equation.params
    numbers = params["dimension_numbers"]
    inputs, kernel, output = (v.aval.shape for v in (*equation.invars[:2], equation.outvars[0]))
    products = output[numbers.out_spec[0]] * output[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for axis, (stride, padding, spread, reach) in enumerate(
        zip(params["window_strides"], params["padding"], params["lhs_dilation"], params["rhs_dilation"], strict=True),
        start=2,
    ):
        sizes = (spec[axis] for spec in (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec))
        n, taps, out = (shape[at] for shape, at in zip((inputs, kernel, output), sizes, strict=True))
        products *= _real_products(n, taps, out, stride, padding[0], spread, reach)
    return 2.0 * products


def _real_products(n: int, taps: int, out: int, stride: int, before: int, spread: int, reach: int) -> int:
    """Returns how many pairs of an output and a tap meet a pixel, along one axis, and not padding or a hole."""
    at = np.arange(out)[:, None] * stride + np.arange(taps)[None, :] * reach - before
    return int(np.count_nonzero((at >= 0) & (at <= (n - 1) * spread) & (at % spread == 0)))


_PRODUCTS: dict[str, Callable[[Equation], float]] = {
    "dot_general": _dot_flops,
    "conv_general_dilated": _convolution_flops,
}
