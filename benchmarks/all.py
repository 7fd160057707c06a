"""Every benchmark that has a peer, at a small size, in one run: one table of medians and of ratios to rdm_jax.

make parity                                                                 # installs the peers
PYTHONPATH=.venv-parity/vision .venv-parity/bin/python benchmarks/all.py --out docs/performance.md
.venv-parity/bin/python benchmarks/all.py --only retrieval --only networks

Each benchmark runs in a process of its own, one after another, and interleaves its programs. A ratio is the median of
another program over that of rdm_jax in the same case: above 1 rdm_jax is faster. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from machine import machine

from rdm_jax import __version__
from rdm_jax.core import files
from rdm_jax.evaluation.report import markdown_table

FOLDER = Path(__file__).parent
OURS = "rdm_jax"  # the names of our programs begin so; the first one of a case is compared with
LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "torch",
    "diffusers",
    "transformers",
    "torch-fidelity",
    "faiss-cpu",
    "scann",
)
HEADER = ("benchmark", "case", "program", "median", "unit", "ratio")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A script of this folder that prints tables, and what is taken from them.

    Attributes:
      words: the script and its options for a small size.
      value: the header of the column of medians, which is their unit too.
      program: the header of the column of programs.
      case: the headers of what is the same for the programs that are compared.
      per_second: whether the value is a speed, not a time.
    """

    words: tuple[str, ...]
    value: str
    program: str = "program"
    case: tuple[str, ...] = ()
    per_second: bool = False


INDEXES = ("exact", "scann", "faiss", "numpy", "faiss-flat", "faiss-ivfpq", "faiss-fastscan", "faiss-hnsw")
BENCHMARKS: Mapping[str, Benchmark] = {
    "networks": Benchmark(("networks.py", "--repeats", "5", "--no-compile"), "ms", case=("network",)),
    "sampling": Benchmark(
        ("sampling.py", "--only", "pytorch", "--quick", "--no-compile"), "ms per step", case=("sampler", "steps")
    ),
    "training": Benchmark(("training.py", "--only", "step", "--repeats", "5", "--no-compile"), "ms per step", ""),
    "evaluation": Benchmark(
        ("evaluation.py", "--only", "speed", "--images", "32", "--rounds", "3"), "images per second", per_second=True
    ),
    "retrieval": Benchmark(
        ("retrieval.py", "--only", "index", "--sizes", "10000", "--indexes", *INDEXES), "one query, ms", "index"
    ),
}


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """Yields the Markdown tables of a text, each as rows of {header: cell}."""
    for block in re.findall(r"(?:^\|.*\|[ ]*\n)+", text + "\n", re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines()]
        yield [dict(zip(head, row, strict=True)) for row in rows]


def rows_of(name: str, benchmark: Benchmark, printed: str) -> list[list[str]]:
    """Returns the rows of the table for what a benchmark has printed.

    Raises:
      ValueError: it has printed no table with these columns, or none of our programs.
    """
    found: list[list[str]] = []
    for table in tables(printed):
        if not table or not {benchmark.value, benchmark.program, *benchmark.case} <= table[0].keys():
            continue
        ours: dict[str, float] = {}
        for row in table:
            case, program = ", ".join(row[column] for column in benchmark.case), row[benchmark.program]
            value = float(row[benchmark.value].replace(",", ""))
            if program.startswith(OURS):
                ours.setdefault(case, value)
            if case not in ours:
                raise ValueError(f"{name}: no program of {OURS} stands before {program}")
            ratio = ours[case] / value if benchmark.per_second else value / ours[case]
            found.append([name, case, program, row[benchmark.value], benchmark.value, f"{ratio:.2f}"])
    if not found:
        raise ValueError(f"{name}: no table with a column {benchmark.value!r}")
    return found


def measure(name: str, benchmark: Benchmark) -> tuple[list[list[str]], str]:
    """Returns the rows of a benchmark, and why there are none."""
    words = [sys.executable, str(FOLDER / benchmark.words[0]), *benchmark.words[1:]]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        return [], f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    try:
        return rows_of(name, benchmark, done.stdout), ""
    except ValueError as error:
        return [], str(error)


def versions() -> str:
    """Returns the versions of Python, of this package and of the libraries that are installed."""
    found = [f"Python {platform.python_version()}", f"rdm_jax {__version__}"]
    for library in LIBRARIES:
        try:
            found.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def page(rows: Sequence[Sequence[str]], missing: Sequence[str], described: str) -> str:
    """Returns the page in Markdown.

    Args:
      rows: of the table.
      missing: a line for each benchmark that was not measured.
      described: the machine.
    """
    parts = [
        "# Performance",
        f"`python benchmarks/all.py` on {described}; {versions()}.",
        "The ratio is the median time of a program over that of rdm_jax in the same case: above 1, rdm_jax is faster.",
        markdown_table(HEADER, rows),
    ]
    if missing:
        parts += ["Not measured:", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints or writes the page; returns 1 if a benchmark could not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="a benchmark (repeatable)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="the page (default: it is printed)")
    args = parser.parse_args(arguments)
    described, rows, missing = machine(), [], []
    for name in args.only or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found, reason = measure(name, BENCHMARKS[name])
        rows += found
        missing += [reason] if reason else []
    text = page(rows, missing, described)
    if args.out:
        files.write_bytes(args.out, text.encode())
    else:
        print(text)
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
