"""What each sampler, guide and conditioner costs, relative to plain DDIM and to the networks that it evaluates."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rounds import interleave, paired

from rdm_jax.diffusion.samplers import num_steps
from rdm_jax.heads.base import Plan
from rdm_jax.heads.diffusion.program import DiffusionProgram
from sampling_tables.cases import CASES, PLAIN, Case
from sampling_tables.job import Job, wrapped
from sampling_tables.networks import CHUNK, SingleNetworks
from sampling_tables.parts import Clock

ALLOWED = 1.10  # of the sum of its networks; above it, a row is marked


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A case, compiled.

    Attributes:
      case: what is timed.
      plan: of its run.
      networks: the names of the networks that a step evaluates.
      clock: the seconds of each run's parts.
      run: generates once.
      mebibytes: the memory of its largest program.
    """

    case: Case
    plan: Plan
    networks: list[str]
    clock: Clock
    run: Callable[[], Any]
    mebibytes: float

    @property
    def evaluations(self) -> int:
        """The number of evaluations of the denoiser (NFE)."""
        return num_steps(self.plan.run.steps)

    @property
    def step_seconds(self) -> list[float]:
        """The seconds of one evaluation with all that belongs to it, in each run."""
        return [repeat["denoiser"] / self.evaluations for repeat in self.clock.repeats]


def memory(program: DiffusionProgram) -> float:
    """Returns the mebibytes that the largest of a program's functions takes: arguments, results and temporaries."""
    sizes = []
    functions: tuple[Any, ...] = program.begin, program.step, program.decode
    for function in functions:
        analysis = function.memory_analysis()
        total = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
        sizes.append((total - analysis.alias_size_in_bytes) / 2**20)
    return max(sizes)


def prepare(job: Job, case: Case, single: SingleNetworks) -> Prepared:
    """Compiles a case and its networks."""
    print(f"compiling {case.name}", file=sys.stderr, flush=True)
    plan, clock, used = job.plan(**case.options), Clock(), []

    def timed(program: DiffusionProgram) -> DiffusionProgram:
        """Returns a program whose functions are timed, and keeps the program."""
        used.append(program)
        return clock.program(program)

    def run() -> None:
        """Generates once."""
        clock.start()
        list(generator.generate(plan))

    generator = wrapped(job.generator, timed)
    run()
    clock.repeats.clear()
    return Prepared(case, plan, single.of(case, plan), clock, run, memory(used[0]))


def lines(job: Job, tables: Sequence[str]) -> Iterator[str]:
    """Yields the lines of the table.

    Args:
      job: what is generated.
      tables: names in `cases.CASES`.
    """
    single = SingleNetworks(job)
    chosen = {
        case.name: case for name in tables for case in CASES[name](job) if not job.cases or case.name in job.cases
    }
    prepared = [prepare(job, case, single) for case in {PLAIN: Case(PLAIN, {}), **chosen}.values()]
    for call in single.calls.values():
        call()
    # A guide and a network may have the same name.
    runs = {one.case.name: f"run: {one.case.name}" for one in prepared}
    times = interleave({**{runs[one.case.name]: one.run for one in prepared}, **single.calls}, job.rounds)
    yield (
        f"{job.num_images} images at once, medians of {job.rounds} interleaved rounds; the last ratio compares one "
        "evaluation in a run with the sum of its networks, each compiled alone, in the same round"
    )
    yield ""
    yield "| | NFE | ms per image | of DDIM | ms per evaluation | of DDIM | its networks, ms | of their sum | MiB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    plain = prepared[0]
    for one in prepared:
        sums = [sum(parts) / CHUNK for parts in zip(*(times[name] for name in one.networks), strict=True)]
        whole, of_sum = times[runs[one.case.name]], paired(one.step_seconds, sums)
        yield (
            f"| {one.case.name} | {one.evaluations} | {1e3 * statistics.median(whole) / job.num_images:.1f} "
            f"| {paired(whole, times[runs[PLAIN]]):.2f} | {1e3 * statistics.median(one.step_seconds):.2f} "
            f"| {paired(one.step_seconds, plain.step_seconds):.2f} | {1e3 * statistics.median(sums):.2f} "
            f"| {of_sum:.2f}{' (!)' if of_sum > ALLOWED else ''} | {one.mebibytes:.0f} |"
        )
    yield ""
    yield "Memory: arguments, results and temporaries of the largest compiled program, as XLA counts them."
    yield ""
    yield "| network alone | ms |"
    yield "|---|---|"
    for name in single.calls:
        yield f"| {name} | {1e3 * statistics.median(times[name]) / CHUNK:.2f} |"
