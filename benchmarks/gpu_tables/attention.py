"""Attention alone: XLA's and cuDNN's, forward and with its gradient, of a feature map to itself and to the context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from rounds import interleave, paired

from gpu_tables.job import Job
from gpu_tables.row import Program, Row, warmed
from rdm_jax.models.attention import attend
from rdm_jax.training import flops

HEADS, CHANNELS, CONTEXT = 12, 32, 4  # of the U-Net at half its resolution; tokens of the context


def rows(job: Job) -> Iterator[Row]:
    """Yields the rows of every form of attention."""
    for tokens in job.size.tokens:
        for keys, name in ((tokens, f"self-attention, {tokens} tokens"), (CONTEXT, f"{tokens} to {CONTEXT} tokens")):
            for backward in (False, True):
                yield from form_rows(job, name + (", with gradient" if backward else ""), tokens, keys, backward)


def form_rows(job: Job, name: str, tokens: int, keys: int, backward: bool) -> Iterator[Row]:
    """Yields the rows of one form of attention; a kernel that does not support it has the reason in its row."""
    batch, calls = 2 * job.size.images, job.size.calls
    shapes = [(batch, length, HEADS, CHANNELS) for length in (tokens, keys, keys)]
    inputs = [jax.random.normal(jax.random.key(i), shape, job.dtype) for i, shape in enumerate(shapes)]
    work = flops.count(repeated("xla", 1, backward), *inputs).flops

    def program(kernel: str) -> Program:
        call = jax.jit(repeated(kernel, calls, backward))
        return lambda: jax.block_until_ready(call(*inputs))

    missing = {kernel: reason for kernel, reason in job.kernels.items() if reason}
    programs, _, reasons = warmed({name: partial(program, name) for name in job.kernels if name not in missing})
    times = interleave(programs, job.size.rounds)
    for kernel, seconds in times.items():
        ratio = paired(seconds, times["xla"]) if "xla" in times else None
        yield Row(name, kernel, [one / calls for one in seconds], flops=work, peak=job.peak, ratio=ratio)
    for kernel, reason in (missing | reasons).items():
        yield Row(name, kernel, note=reason)


def repeated(kernel: str, calls: int, backward: bool) -> Callable[..., Any]:
    """Returns the function (q, k, v) to the last result of many calls, each of which needs the one before."""

    def forward(q: Any, k: Any, v: Any) -> tuple[Any, Any, Any]:
        """Returns the output in the queries' place."""
        return attend(q, k, v, kernel), k, v  # pyright: ignore[reportArgumentType]

    def gradient(q: Any, k: Any, v: Any) -> tuple[Any, Any, Any]:
        """Returns queries, keys and values after a small step along the gradients."""
        gradients = jax.grad(lambda *qkv: jnp.sum(forward(*qkv)[0].astype(jnp.float32)), (0, 1, 2))(q, k, v)
        return jax.tree.map(lambda one, slope: one + 1e-3 * slope, (q, k, v), gradients)

    one = gradient if backward else forward
    return lambda *qkv: jax.lax.fori_loop(0, calls, lambda _, state: one(*state), qkv)
