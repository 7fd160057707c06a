"""What rdm_jax does on one GPU, as one table: networks and samples beside torch.compile, attention, few steps and
training.

benchmarks/gpu.sh                                  # writes outputs/gpu/gpu.md and gpu.json
benchmarks/gpu.sh --only training --out DIR
benchmarks/gpu.sh --tiny                           # everything in a minute, also without a GPU: a trial of the script

Networks compute in bfloat16. The U-Net is that of rdm_imagenet, 401 M parameters with random weights; PyTorch's is the
same network of diffusers with the same weights, compiled, channels last. FLOPs are counted in the program's jaxpr. The
table is written again after every row, so that it holds what was measured wherever a run ends. A part that fails has
its error in a row, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Otherwise JAX takes three quarters of the card's memory for itself, and PyTorch has too little.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")

import jax
from gpu_tables import attention, few_steps, step, updates
from gpu_tables.job import TINY, Job, Size
from gpu_tables.row import HEADER, Row, reason_of
from machine import machine

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.report import markdown_table

LIMIT = 420.0  # leaves the last part time to compile within the ten minutes that gpu.sh grants

PARTS: Mapping[str, Callable[[Job], Iterator[Row]]] = {
    "step": step.step_rows,
    "few-steps": few_steps.rows,
    "attention": attention.rows,
    "training": updates.rows,
    "samples": step.sample_rows,
}
CAPTION = (
    "Columns: what is computed; the program; median and quartiles of the time of one call; images a second; the rate "
    "of products, and its fraction of the card's peak; memory of the largest compiled program; the time relative to "
    "that of the first program of the same measurement (median over the rounds)."
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured so far.

    Attributes:
      folder: of the files.
      conditions: of the measurement, by name.
      rows: of the table.
    """

    folder: Path
    conditions: Mapping[str, Any]
    rows: Sequence[Row] = ()

    def plus(self, row: Row) -> Report:
        """Returns the report with one more row, after it has written the files."""
        report = dataclasses.replace(self, rows=(*self.rows, row))
        files.write_bytes(report.folder / "gpu.md", report.markdown().encode())
        rows = [{**dataclasses.asdict(one), "fraction_of_peak": one.fraction_of_peak} for one in report.rows]
        files.write_json(report.folder / "gpu.json", {**report.conditions, "rows": rows})
        return report

    def markdown(self) -> str:
        """Returns the table and the conditions of the measurement."""
        conditions = "; ".join(f"{name} {value}" for name, value in self.conditions.items())
        return f"{markdown_table(HEADER, [row.cells() for row in self.rows])}\n\n{conditions}\n\n{CAPTION}\n"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), metavar="DIR", help="(%(default)s)")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part (repeatable)")
    parser.add_argument("--model", default="style-scenes", help="for few steps (%(default)s)")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, metavar="S", help="no part begins after so many seconds (%(default)g)"
    )
    parser.add_argument("--tiny", action="store_true", help="small networks, few rounds; on a CPU in float32")
    return parser.parse_args(arguments)


def open_job(args: argparse.Namespace) -> Job:
    """Returns what the command line describes.

    Raises:
      UserError: there is no GPU, and the job is not tiny.
    """
    backend = jax.default_backend()
    if backend != "gpu" and not args.tiny:
        raise UserError(f"JAX runs on {backend!r}, not on a GPU; install rdm_jax[cuda], or try the script with --tiny")
    return Job(TINY if args.tiny else Size(), "bfloat16" if backend == "gpu" else "float32", args.model, args.tiny)


def conditions(job: Job) -> dict[str, Any]:
    """Returns what the measurement depends on."""
    found = {"device": jax.devices()[0].device_kind, "host": machine(), "dtype": job.dtype, "JAX": jax.__version__}
    if not job.without_torch:
        import torch  # pyright: ignore[reportMissingImports]

        found["PyTorch"] = torch.__version__
    return {**found, "rounds": job.size.rounds, "size": "tiny" if job.tiny else "full"}


def measure(job: Job, parts: Sequence[str], limit: float) -> Iterator[Row]:
    """Yields the rows of some parts; one that fails, and one for which no time is left, has a row that says why."""
    begin = time.monotonic()
    for name in parts:
        elapsed = time.monotonic() - begin
        print(f"benchmarks/gpu.sh: {name}, after {elapsed:.0f} s", file=sys.stderr, flush=True)
        if elapsed > limit:
            yield Row(name, "", note=f"not measured: {elapsed:.0f} s have passed; --only {name} measures it alone")
            continue
        try:
            yield from PARTS[name](job)
        except Exception as error:  # of any library; the other parts are still worth their time
            yield Row(name, "", note=reason_of(error), failed=True)


def main() -> int:
    """Measures, writes the files and prints the table."""
    args = parse()
    try:
        job = open_job(args)
        args.out.mkdir(parents=True, exist_ok=True)
    except (UserError, OSError) as error:
        print(f"benchmarks/gpu.sh: {error}", file=sys.stderr)
        return 2
    report = Report(args.out, conditions(job))
    for row in measure(job, args.only or list(PARTS), args.limit):
        report = report.plus(row)
    print(report.markdown())
    print(f"written to {args.out / 'gpu.md'} and {args.out / 'gpu.json'}")
    return int(any(row.failed for row in report.rows))


if __name__ == "__main__":
    sys.exit(main())
