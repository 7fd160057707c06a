"""Where the time of a sample goes: text encoder, retrieval, U-Net, decoder and writing."""

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
from rdm_jax.program import Program

from draws.job import Job, wrapped
from rdm_jax.cli.outputs import records, write_new
from rdm_jax.cli.png import encode_png
from rdm_jax.generator import join
from rdm_jax.retrieval.mixture import Mixture

PARTS = ("text encoder", "retrieval", "noise", "U-Net", "decoder", "writing")


class Clock:
    """Seconds by part; one list of sums per repeat."""

    def __init__(self) -> None:
        self.repeats: list[dict[str, float]] = []

    def start(self) -> None:
        """Begins a repeat."""
        self.repeats.append(defaultdict(float))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds what happens inside to a part."""
        begin = time.perf_counter()
        yield
        self.repeats[-1][name] += time.perf_counter() - begin

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the function, its time until the result is there added to a part."""

        def call(*arguments: Any) -> Any:
            """Calls and waits."""
            with self.part(name):
                return jax.block_until_ready(function(*arguments))

        return call

    def program(self, program: Program) -> Program:
        """Returns a compiled program with each of its functions timed."""
        return dataclasses.replace(
            program,
            start=self.timed("noise", program.start),
            advance=self.timed("U-Net", program.advance),
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
    list(job.generator.draw(plan))
    first = time.perf_counter() - begin

    clock = Clock()
    timed = wrapped(job.generator, clock.program)
    for repeat in range(job.rounds):
        clock.start()
        with clock.part("text encoder"):
            queries = job.generator.encoder.encode_texts([job.prompt])
        with clock.part("retrieval"):
            job.retriever.retrieve(queries, plan.settings.neighbors)
        again = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, seed=repeat))
        result = join(list(timed.draw(again)))
        with clock.part("writing"), tempfile.TemporaryDirectory() as folder:
            told = records(result, job.generator.bundle, Mixture(job.retriever.databases))
            for image, record in zip(result.images, told, strict=True):
                write_new(Path(folder) / f"{record['index']:05d}.png", encode_png(image, record))
    return clock, first


def lines(job: Job) -> Iterator[str]:
    """Yields the table."""
    clock, first = measure(job)
    total = clock.total()
    yield f"{job.num_images} pictures, {job.steps} steps, medians of {job.rounds}"
    yield ""
    yield "| part | ms | a picture, ms | share |"
    yield "|---|---|---|---|"
    for name, seconds in [*((name, clock.median(name)) for name in PARTS), ("all", total)]:
        yield f"| {name} | {1e3 * seconds:.1f} | {1e3 * seconds / job.num_images:.1f} | {seconds / total:.1%} |"
    yield ""
    yield f"Loading {job.loading:.2f} s, first run with compilation {first:.2f} s."
