"""What each sampler, guide and condition costs beside plain DDIM, and beside the networks that its steps ask."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rdm_jax.program import Program
from rdm_jax.run import Plan
from rounds import interleave, paired

from draws.cases import KINDS, PLAIN, Case
from draws.job import Job, wrapped
from draws.networks import CHUNK, Alone
from draws.parts import Clock
from rdm_jax.diffusion.samplers import num_steps

ALLOWED = 1.10  # of the sum of its networks


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A way to draw, compiled.

    Attributes:
      case: the way.
      plan: of a run.
      networks: the names of what a step asks.
      clock: the seconds of each run's parts.
      draw: makes a run.
      mebibytes: what its largest program holds at once.
    """

    case: Case
    plan: Plan
    networks: list[str]
    clock: Clock
    draw: Callable[[], Any]
    mebibytes: float

    @property
    def calls(self) -> int:
        """How often a run asks the U-Net."""
        return num_steps(self.plan.run.steps)

    @property
    def steps(self) -> list[float]:
        """The seconds of a step in each run."""
        return [repeat["U-Net"] / self.calls for repeat in self.clock.repeats]


def memory(program: Program) -> float:
    """Returns the mebibytes that the largest of a program's functions holds: arguments, results and temporaries."""
    held = []
    functions: tuple[Any, ...] = program.start, program.advance, program.decode
    for function in functions:
        told = function.memory_analysis()
        total = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
        held.append((total - told.alias_size_in_bytes) / 2**20)
    return max(held)


def prepare(job: Job, case: Case, alone: Alone) -> Drawn:
    """Compiles a way and its networks."""
    print(f"compiling {case.name}", file=sys.stderr, flush=True)
    plan, clock, used = job.plan(**case.options), Clock(), []

    def timed(program: Program) -> Program:
        """Returns a program with a watch on it, and notes it."""
        used.append(program)
        return clock.program(program)

    def draw() -> None:
        """Makes a run."""
        clock.start()
        list(generator.draw(plan))

    generator = wrapped(job.generator, timed)
    draw()
    clock.repeats.clear()
    return Drawn(case, plan, alone.of(case, plan), clock, draw, memory(used[0]))


def lines(job: Job, kinds: Sequence[str]) -> Iterator[str]:
    """Yields the table.

    Args:
      job: what is drawn.
      kinds: names in `cases.KINDS`.
    """
    alone = Alone(job)
    found = {case.name: case for kind in kinds for case in KINDS[kind](job) if not job.ways or case.name in job.ways}
    drawn = [prepare(job, case, alone) for case in {PLAIN: Case(PLAIN, {}), **found}.values()]
    for call in alone.calls.values():
        call()
    # A guide and the network that it asks may bear one name.
    runs = {one.case.name: f"run: {one.case.name}" for one in drawn}
    times = interleave({**{runs[one.case.name]: one.draw for one in drawn}, **alone.calls}, job.rounds)
    yield (
        f"{job.num_images} pictures at once, medians of {job.rounds} rounds in turn; a step against its networks: each "
        "compiled alone, their sum in the same round"
    )
    yield ""
    yield "| | calls | a picture, ms | of DDIM | a call, ms | of DDIM | its networks, ms | of their sum | memory, MiB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    plain = drawn[0]
    for one in drawn:
        sums = [sum(parts) / CHUNK for parts in zip(*(times[name] for name in one.networks), strict=True)]
        whole, of_sum = times[runs[one.case.name]], paired(one.steps, sums)
        yield (
            f"| {one.case.name} | {one.calls} | {1e3 * statistics.median(whole) / job.num_images:.1f} "
            f"| {paired(whole, times[runs[PLAIN]]):.2f} | {1e3 * statistics.median(one.steps):.2f} "
            f"| {paired(one.steps, plain.steps):.2f} | {1e3 * statistics.median(sums):.2f} "
            f"| {of_sum:.2f}{' (!)' if of_sum > ALLOWED else ''} | {one.mebibytes:.0f} |"
        )
    yield ""
    yield "Memory: arguments, results and temporaries of the largest compiled program, as XLA counts them."
    yield ""
    yield "| network alone | ms |"
    yield "|---|---|"
    for name in alone.calls:
        yield f"| {name} | {1e3 * statistics.median(times[name]) / CHUNK:.2f} |"
