"""Where the time of a sample goes: text encoder, retrieval, denoiser, decoder and writing."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from rdm_jax.cli.png import encode_png
from rdm_jax.cli.records import of_images
from rdm_jax.cli.run_folder import write_new
from rdm_jax.generator import join
from rdm_jax.heads.diffusion.program import DiffusionProgram
from rdm_jax.retrieval.mixture import Mixture
from sampling_tables.job import Job, wrapped

PARTS = ("text encoder", "retrieval", "noise", "denoiser", "decoder", "writing")


class Clock:
    """The seconds of each part, summed within a repeat; `repeats` holds one dictionary for each repeat."""

    def __init__(self) -> None:
        self.repeats: list[dict[str, float]] = []

    def start(self) -> None:
        """Starts a repeat."""
        self.repeats.append(defaultdict(float))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a part."""
        begin = time.perf_counter()
        yield
        self.repeats[-1][name] += time.perf_counter() - begin

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a function that waits for the result and adds the time until then to a part."""

        def call(*arguments: Any) -> Any:
            """Calls and waits."""
            with self.part(name):
                return jax.block_until_ready(function(*arguments))

        return call

    def program(self, program: DiffusionProgram) -> DiffusionProgram:
        """Returns a compiled program with each of its functions timed."""
        return dataclasses.replace(
            program,
            begin=self.timed("noise", program.begin),
            step=self.timed("denoiser", program.step),
            decode=self.timed("decoder", program.decode),
        )

    def median(self, name: str) -> float:
        """Returns a part's median over the repeats, in seconds."""
        return statistics.median(repeat[name] for repeat in self.repeats)

    def total(self) -> float:
        """Returns the median over the repeats of all parts' sum, in seconds."""
        return statistics.median(sum(repeat.values()) for repeat in self.repeats)


def measure(job: Job) -> tuple[Clock, float]:
    """Returns the clock of the repeats, and the seconds of the first run, which compiles."""
    begin = time.perf_counter()
    plan = job.plan()
    list(job.generator.generate(plan))
    first = time.perf_counter() - begin

    clock = Clock()
    timed = wrapped(job.generator, clock.program)
    for repeat in range(job.rounds):
        clock.start()
        with clock.part("text encoder"):
            queries = job.generator.encoder.encode_texts([job.prompt])
        with clock.part("retrieval"):
            job.retriever.retrieve(queries, plan.request.neighbors)
        again = dataclasses.replace(plan, request=dataclasses.replace(plan.request, seed=repeat))
        result = join(list(timed.generate(again)))
        with clock.part("writing"), tempfile.TemporaryDirectory() as folder:
            described = of_images(result, job.generator, Mixture(job.retriever.databases), {})
            for image, record in zip(result.images, described, strict=True):
                write_new(Path(folder) / f"{record['index']:05d}.png", encode_png(image, record))
    return clock, first


def lines(job: Job) -> Iterator[str]:
    """Yields the lines of the table."""
    clock, first = measure(job)
    total = clock.total()
    yield f"{job.num_images} images, {job.steps} steps, medians of {job.rounds}"
    yield ""
    yield "| part | ms | ms per image | fraction |"
    yield "|---|---|---|---|"
    for name, seconds in [*((name, clock.median(name)) for name in PARTS), ("all", total)]:
        yield f"| {name} | {1e3 * seconds:.1f} | {1e3 * seconds / job.num_images:.1f} | {seconds / total:.1%} |"
    yield ""
    yield f"Loading {job.loading:.2f} s, first run with compilation {first:.2f} s."
