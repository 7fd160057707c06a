"""How many images a second a model generates, decoder included, and the memory it takes, by the size of the batch."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rounds import interleave

from rdm_jax.generator import Generator
from rdm_jax.heads.base import Plan
from sampling_tables.costs import memory
from sampling_tables.job import Job

BATCHES = (1, 8, 64)


@dataclasses.dataclass(frozen=True)
class Throughput:
    """What one batch takes.

    Attributes:
      batch: the images in it.
      seconds: in each round.
      mebibytes: of the largest compiled program.
    """

    batch: int
    seconds: Sequence[float]
    mebibytes: float

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


def measure(
    generator: Generator, plan_of: Callable[[int], Plan], batches: Sequence[int], rounds: int
) -> Iterator[Throughput]:
    """Yields what each batch takes, from noise to images, one after another: each program holds its memory.

    Args:
      generator: the model.
      plan_of: from a number of images to the plan that has them in one batch.
      batches: the numbers of images.
      rounds: how often each is timed, after it was compiled.
    """
    for batch in batches:
        plan = plan_of(batch)

        def run(plan: Plan = plan) -> None:
            """Generates the batch."""
            list(generator.generate(plan))

        run()
        program: Any = generator.programs[generator.head.shape(plan, batch)]
        yield Throughput(batch, interleave({"": run}, rounds)[""], memory(program))


def lines(job: Job) -> Iterator[str]:
    """Yields the lines of the table."""
    yield f"{job.steps} steps, from noise to images, medians of {job.rounds}"
    yield ""
    yield "| batch | ms | ms per image | images/s | MiB |"
    yield "|---|---|---|---|---|"
    for one in measure(job.generator, lambda batch: job.plan(num_images=batch), BATCHES, job.rounds):
        seconds, batch = one.median, one.batch
        yield (
            f"| {batch} | {1e3 * seconds:.1f} | {1e3 * seconds / batch:.1f} | {batch / seconds:.1f} "
            f"| {one.mebibytes:.0f} |"
        )
    yield ""
    yield "Memory: arguments, results and temporaries of the largest compiled program, as XLA counts them."
