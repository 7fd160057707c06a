"""What sampling costs, as tables: the time of each part, also of `rdm sample` from the shell; images a second;
samplers, guides and conditioners relative to plain DDIM and to the networks that they evaluate; what compiles again;
quality by steps; and the same denoiser under diffusers.

python benchmarks/sampling.py                                        # the time of each part
python benchmarks/sampling.py --only shell --steps 4 --num-images 1  # start-up, imports, caches, files
python benchmarks/sampling.py --only throughput --steps 4            # batches of 1, 8 and 64, with their memory
python benchmarks/sampling.py --only all                             # every table except PyTorch's
python benchmarks/sampling.py --only guides --model my-model --num-images 8 --steps 50 --repeats 5
python benchmarks/sampling.py --only guides --case clip --case "sdg, style"
make parity                                                          # installs what the comparison needs
.venv-parity/bin/python benchmarks/sampling.py --only pytorch        # --no-compile

If the model lacks a network of noisy latents, one of the usual size with random weights is measured: it takes the same
time. All timings are interleaved, round by round. --quick tries everything with few images, steps and rounds.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

# Otherwise PyTorch's threads spin for a while after each call and take time from the other program.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
from machine import machine
from sampling_tables import compilations, costs, parts, pytorch, quality, shell, throughput
from sampling_tables.job import Job, open_job

from rdm_jax.bundle import DTYPES
from rdm_jax.core.errors import UserError

Table = Callable[[Job], Iterator[str]]

TABLES: Mapping[str, Table] = {
    "parts": parts.lines,
    "shell": shell.lines,
    "throughput": throughput.lines,
    "samplers": lambda job: costs.lines(job, ["samplers"]),
    "guides": lambda job: costs.lines(job, ["guides"]),
    "conditions": lambda job: costs.lines(job, ["conditions"]),
    "compilations": compilations.lines,
    "quality": quality.lines,
    "pytorch": pytorch.lines,
}
QUICK = {"num_images": 2, "steps": 10, "repeats": 2}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*TABLES, "all"], action="append", help="a table (repeatable)")
    parser.add_argument(
        "--case", action="append", default=[], help="a row of samplers, guides or conditions, as printed (repeatable)"
    )
    parser.add_argument("--model", default="style-scenes")
    parser.add_argument("--database", default="neon")
    parser.add_argument("--other", default="poster", help="the second database, for what compiles again (%(default)s)")
    parser.add_argument("--prompt", default="a red boat")
    parser.add_argument("--num-images", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the denoiser (default: bfloat16 on a GPU, otherwise float32)"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--quick", action="store_true", help="few images, steps and rounds")
    args = parser.parse_args(arguments)
    for name, value in (QUICK if args.quick else {"num_images": 8, "steps": 50, "repeats": 5}).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.only = [name for name in TABLES if name != "pytorch"] if "all" in (args.only or ()) else args.only or ["parts"]
    return args


def main() -> int:
    """Measures and prints."""
    args = parse()
    print(f"{machine()}; JAX {jax.__version__} on {jax.default_backend()}", flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            job = open_job(args, Path(folder))
            if job.random_parts:
                print(f"with random weights, because the model has none: {', '.join(job.random_parts)}", flush=True)
            for name in args.only:
                print(f"\n## {name}\n", flush=True)
                for line in TABLES[name](job):
                    print(line, flush=True)
    except UserError as error:
        sys.exit(f"benchmarks/sampling.py: {error}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nPeak memory of the process, with compilation: {peak:.2f} GiB.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
