"""Where the time of a sample goes: text encoder, retrieval, U-Net, decoder and writing, as a table of medians.

python benchmarks/sampling.py
python benchmarks/sampling.py --model DIR --database DIR --num-images 8 --steps 50 --repeats 5
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from machine import machine

from rdm_jax.cli.outputs import records, write_new
from rdm_jax.cli.png import encode_png
from rdm_jax.core.errors import UserError
from rdm_jax.factory import Program
from rdm_jax.generator import Generator, join
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.retriever import Retriever

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
            with self.part(name):
                return jax.block_until_ready(function(*arguments))

        return call

    def program(self, program: Program) -> Program:
        """Returns a compiled program with each of its functions timed."""
        return Program(
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


def measure(args: argparse.Namespace) -> tuple[Clock, float, float]:
    """Returns the clock of the repeats, the seconds of loading and those of the first run, which compiles."""
    begin = time.perf_counter()
    generator = Generator.load(args.model)
    retriever = Retriever(generator.encoder, [Database.open(args.database)])
    loading = time.perf_counter() - begin

    begin = time.perf_counter()
    plan = generator.plan(args.prompt, database=retriever, num_images=args.num_images, steps=args.steps)
    result = join(list(generator.draw(plan)))
    first = time.perf_counter() - begin

    clock = Clock()
    timed = dataclasses.replace(
        generator, programs={shape: clock.program(program) for shape, program in generator.programs.items()}
    )
    for repeat in range(args.repeats):
        clock.start()
        with clock.part("text encoder"):
            queries = generator.encoder.encode_texts([args.prompt])
        with clock.part("retrieval"):
            retriever.retrieve(queries, plan.settings.neighbors)
        again = dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, seed=repeat))
        result = join(list(timed.draw(again)))
        with clock.part("writing"), tempfile.TemporaryDirectory() as folder:
            told = records(result, generator.bundle, Mixture(retriever.databases))
            for image, record in zip(result.images, told, strict=True):
                write_new(Path(folder) / f"{record['index']:05d}.png", encode_png(image, record))
    return clock, loading, first


def table(args: argparse.Namespace, clock: Clock, loading: float, first: float) -> str:
    """Returns the report as a Markdown table."""
    total = clock.total()
    rows = [(name, clock.median(name)) for name in PARTS] + [("all", total)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = [
        f"{args.num_images} pictures, {args.steps} steps, medians of {args.repeats}; {machine()}; "
        f"JAX {jax.__version__} on {jax.default_backend()}",
        "",
        "| part | ms | a picture, ms | share |",
        "|---|---|---|---|",
        *(
            f"| {name} | {1e3 * seconds:.1f} | {1e3 * seconds / args.num_images:.1f} | {seconds / total:.1%} |"
            for name, seconds in rows
        ),
        "",
        f"loading {loading:.2f} s, first run with compilation {first:.2f} s, peak memory {peak:.2f} GiB",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="style-scenes")
    parser.add_argument("--database", default="neon")
    parser.add_argument("--prompt", default="a red boat")
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    try:
        print(table(args, *measure(args)))
    except UserError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
