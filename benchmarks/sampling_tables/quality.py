"""How close each sampler comes, by its number of steps, to the end of the ODE that all of them solve."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from rdm_jax.heads.base import Plan
from rdm_jax.heads.diffusion.program import DiffusionProgram
from sampling_tables.job import Job, wrapped

REFERENCE = 1000
STEPS = (10, 15, 20, 25, 50, 100)
SAMPLERS = ("ddim", "ddim(spacing='trailing')", "dpmpp_2m", "unipc")


def final_latents(job: Job, plan: Plan) -> Float[np.ndarray, "b h w c"]:
    """Returns the latents at the end of a run."""
    kept = []

    def keeping(program: DiffusionProgram) -> DiffusionProgram:
        """Returns a program that keeps what it decodes."""

        def decode(params: Any, x: Any) -> Any:
            """Keeps the latents, and decodes them."""
            kept.append(np.asarray(x))
            return program.decode(params, x)

        return dataclasses.replace(program, decode=decode)

    list(wrapped(job.generator, keeping).generate(plan))
    return np.concatenate(kept)


def distance(x: Float[np.ndarray, "b h w c"], reference: Float[np.ndarray, "b h w c"]) -> float:
    """Returns the median over images of |x - reference| / |reference|."""
    axes = tuple(range(1, x.ndim))
    lengths = [np.sqrt(np.sum(np.square(each), axis=axes)) for each in (x - reference, reference)]
    return float(np.median(lengths[0] / lengths[1]))


def fewest_steps(distances: dict[int, float], target: float) -> int | None:
    """Returns the smallest number of steps whose distance is at most the target; None if there is none."""
    return min((steps for steps, value in distances.items() if value <= target), default=None)


def lines(job: Job) -> Iterator[str]:
    """Yields the lines of the table."""
    print(f"reference: DDIM, {REFERENCE} steps", file=sys.stderr, flush=True)
    reference = final_latents(job, job.plan(sampler="ddim", spacing="trailing", steps=REFERENCE))
    table: dict[str, dict[int, float]] = {}
    for sampler in SAMPLERS:
        print(f"sampling by {sampler}", file=sys.stderr, flush=True)
        table[sampler] = {
            steps: distance(final_latents(job, job.plan(sampler=sampler, steps=steps)), reference) for steps in STEPS
        }
    yield (
        f"Distance of the final latents x to those of DDIM in {REFERENCE} steps from the same noise, r: |x - r| / |r|, "
        f"median over {job.num_images} images; the last column is the number of steps that comes as close as DDIM in 50"
    )
    yield ""
    yield "| steps | " + " | ".join(map(str, STEPS)) + " | as close as DDIM in 50 |"
    yield "|---" * (len(STEPS) + 2) + "|"
    for sampler, distances in table.items():
        fewest = fewest_steps(distances, table["ddim"][50])
        cells = " | ".join(f"{distances[steps]:.3f}" for steps in STEPS)
        yield f"| {sampler} | {cells} | {'more' if fewest is None else fewest} |"
