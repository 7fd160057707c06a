"""How near each sampler comes, by its number of steps, to the end of the flow that all of them follow."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float
from rdm_jax.program import Program
from rdm_jax.run import Plan

from draws.job import Job, wrapped

REFERENCE = 1000
STEPS = (10, 15, 20, 25, 50, 100)
SAMPLERS = ("ddim", "ddim(spacing='trailing')", "dpmpp_2m", "unipc")


def latents(job: Job, plan: Plan) -> Float[np.ndarray, "b h w c"]:
    """Returns the latents at the end of a run."""
    kept = []

    def tapped(program: Program) -> Program:
        """Returns a program that keeps what it decodes."""

        def decode(params: Any, x: Any) -> Any:
            """Notes the latents, and decodes them."""
            kept.append(np.asarray(x))
            return program.decode(params, x)

        return dataclasses.replace(program, decode=decode)

    list(wrapped(job.generator, tapped).draw(plan))
    return np.concatenate(kept)


def distance(x: Float[np.ndarray, "b h w c"], reference: Float[np.ndarray, "b h w c"]) -> float:
    """Returns the median over pictures of |x - reference| / |reference|."""
    axes = tuple(range(1, x.ndim))
    lengths = [np.sqrt(np.sum(np.square(each), axis=axes)) for each in (x - reference, reference)]
    return float(np.median(lengths[0] / lengths[1]))


def as_near(distances: dict[int, float], wanted: float) -> int | None:
    """Returns the fewest steps that come as near as is wanted, None if none do."""
    return min((steps for steps, found in distances.items() if found <= wanted), default=None)


def lines(job: Job) -> Iterator[str]:
    """Yields the table."""
    print(f"drawing the reference, {REFERENCE} steps", file=sys.stderr, flush=True)
    reference = latents(job, job.plan(sampler="ddim", spacing="trailing", steps=REFERENCE))
    found: dict[str, dict[int, float]] = {}
    for sampler in SAMPLERS:
        print(f"drawing by {sampler}", file=sys.stderr, flush=True)
        found[sampler] = {
            steps: distance(latents(job, job.plan(sampler=sampler, steps=steps)), reference) for steps in STEPS
        }
    yield (
        f"Distance of the last latents to those of DDIM in {REFERENCE} steps from the same noise, |x - r| / |r|, "
        f"median of {job.num_images} pictures"
    )
    yield ""
    yield "| steps | " + " | ".join(map(str, STEPS)) + " | as near as DDIM in 50 |"
    yield "|---" * (len(STEPS) + 2) + "|"
    for sampler, distances in found.items():
        fewest = as_near(distances, found["ddim"][50])
        told = " | ".join(f"{distances[steps]:.3f}" for steps in STEPS)
        yield f"| {sampler} | {told} | {'more' if fewest is None else fewest} |"
