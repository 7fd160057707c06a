"""Where the time of `rdm sample` from the shell goes, with an empty and with a filled compilation cache."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rdm_jax.core.errors import UserError
from sampling_tables.job import Job
from sampling_tables.spans import seconds_of

SCRIPT = Path(__file__).with_name("timed_rdm.py")
ROOT = SCRIPT.parent.parent.parent
PARTS = (
    "interpreter",
    "imports",
    "loading",
    "tracing",
    "compilation",
    "text encoder",
    "retrieval",
    "noise",
    "denoiser",
    "decoder",
    "previews",
    "SVG",
    "file writing",
    "sheets",
    "all else",
    "exit",
)
"""Of a process: from its start to Python's first line, ..., from the end of `rdm` to that of the process."""


def run(arguments: Sequence[str], cache: Path) -> dict[str, float]:
    """Returns the seconds of each part of one `rdm` process.

    Args:
      arguments: of `rdm`.
      cache: the folder of compiled programs.

    Raises:
      UserError: the process failed.
    """
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spans.json"
        command = [sys.executable, str(SCRIPT), str(file), *arguments]
        begin = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        end = time.monotonic()
        if done.returncode:
            raise UserError(f"rdm {' '.join(arguments)} failed: {done.stderr.strip().splitlines()[-1:]}")
        found = json.loads(file.read_text())
    seconds = seconds_of([tuple(span) for span in found["spans"]], found["begin"], found["end"])
    seconds["all else"] = seconds.pop("", 0.0)
    return {**seconds, "interpreter": found["begin"] - begin, "exit": end - found["end"]}


def medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the median of each part, and of the sum as "total"."""
    parts = {name: statistics.median(one.get(name, 0.0) for one in runs) for name in PARTS}
    return {**parts, "total": statistics.median(sum(one.values()) for one in runs)}


def lines(job: Job) -> Iterator[str]:
    """Yields the lines of the table."""
    traced = ["--svg"] if importlib.util.find_spec("vtracer") else []
    extras = ["--previews", *traced]
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", str(Path(folder) / "out"), "--seed", "0"]
        counts = ["--num-images", str(job.num_images), "--steps", str(job.steps)]
        places = [f"--model={job.generator.bundle.path}", f"--database={job.retriever.databases[0].path}"]
        command, cache = ["sample", job.prompt, *places, *counts, *out], Path(folder) / "cache"
        empty = run(command, cache)
        plain, full = [], []
        for _ in range(job.rounds):
            plain.append(run(command, cache))
            full.append(run([*command, *extras], cache))
    columns = {
        "empty cache": medians([empty]),
        "warm cache": medians(plain),
        f"warm cache, {' '.join(extras)}": medians(full),
    }
    yield f"`rdm sample`, {job.num_images} images, {job.steps} steps; medians of {job.rounds}, one with an empty cache"
    yield ""
    yield f"| seconds | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for name in (*PARTS, "total"):
        yield f"| {name} | {' | '.join(f'{column[name]:.2f}' for column in columns.values())} |"
    yield ""
    yield (
        "A moment counts for the innermost part: `loading` is without the imports and the tracing in it. `compilation` "
        "is that of XLA, or the reading of its cache."
    )
