"""Trained models side by side: what each cost, its held-out loss, its style swap, and the time of an image.

python benchmarks/heads.py runs/unet runs/dit runs/uvit runs/rarm --style-swap runs/swap --out docs/images/heads.png

A model is the workdir of a `rdm train`. Its style swap is DIR/NAME/results.json with the workdir's name, as
`rdm evaluate style-swap --model BUNDLE --out DIR/NAME` writes it. All models generate with their own defaults, in
interleaved rounds. The image has a row for each model: the same prompts, databases and seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from PIL import Image
from rounds import interleave, paired

from rdm_jax.core import sheets
from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.report import markdown_table, plain, with_interval
from rdm_jax.factory import parameter_counts
from rdm_jax.generator import Generator
from rdm_jax.heads import head_of
from rdm_jax.training.export import export_run
from rdm_jax.training.workdir import CONFIG, METRICS

HEADER = ("model", "parameters", "images seen", "TFLOP", "held-out loss", "ms per image", "ratio")
PROMPTS = ("a red boat", "a blue cat")
DATABASES = ("poster", "stained-glass", "watercolour", "neon")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model and the records of its run.

    Attributes:
      name: of the workdir.
      generator: of its images.
      metrics: the lines of metrics.jsonl.
      config: of the run.
      arms: of the style swap; empty if it was not measured.
    """

    name: str
    generator: Generator
    metrics: list[dict[str, float]]
    config: dict[str, Any]
    arms: dict[str, Any]

    def teraflops(self) -> float:
        """Returns 1e-12 of the floating-point operations of the whole training, from those of a step on one device."""
        steps = [line for line in self.metrics if "tflops_per_device" in line]
        step = statistics.median(line["tflops_per_device"] * line["seconds_per_step"] for line in steps)
        return step * self.metrics[-1]["step"]

    def loss(self) -> str:
        """Returns the last loss of held-out images, in the unit of the head."""
        last = [line for line in self.metrics if "eval/loss" in line][-1]
        return f"{last['eval/bits_per_code']:.2f} bits" if "eval/bits_per_code" in last else f"{last['eval/loss']:.4f}"

    def row(self, seconds: list[float], others: list[float], count: int) -> list[str]:
        """Returns its row of the first table, from the seconds of `count` images here and by the first model."""
        config = self.generator.bundle.config
        size = parameter_counts(config)[head_of(config).network]
        images = self.metrics[-1]["step"] * self.config["batch_size"]
        cost = [f"{size / 1e6:.1f} M", f"{images:,.0f}", f"{self.teraflops():.0f}", self.loss()]
        return [self.name, *cost, f"{1e3 * statistics.median(seconds) / count:.0f}", f"{paired(seconds, others):.2f}"]


def open_run(workdir: Path, swaps: Path | None, bundles: Path) -> Trained:
    """Exports a run's newest checkpoint into a folder of `bundles`, and opens it with its metrics and its style swap.

    Raises:
      UserError: it is no run, or it has no checkpoint.
    """
    export_run(workdir).save(bundles / workdir.name)
    metrics = [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
    results = swaps / workdir.name / "results.json" if swaps else None
    arms = json.loads(results.read_text())["arms"] if results and results.is_file() else {}
    config = json.loads((workdir / CONFIG).read_text())
    return Trained(workdir.name, Generator.load(bundles / workdir.name), metrics, config, arms)


def sheet(runs: list[Trained]) -> np.ndarray:
    """Returns a row of images for each model: every prompt in every style."""
    pairs = list(itertools.product(PROMPTS, DATABASES))
    rows = [
        [run.generator.sample(prompt, database=database, seed=7).images[0] for prompt, database in pairs]
        for run in runs
    ]
    return sheets.grid(np.asarray(rows), [run.name for run in runs], [", ".join(pair) for pair in pairs])


def swap_rows(runs: list[Trained]) -> list[list[str]]:
    """Returns the rows of the second table: for each arm and model the style with its interval / subject / color."""

    def cell(arm: dict[str, Any]) -> str:
        return " / ".join([with_interval(arm["style"]), *(plain(arm[name]["rate"]) for name in ("subject", "colour"))])

    arms = {key: arm for run in runs for key, arm in run.arms.items()}
    return [
        [arm["title"], str(arm["samples"]), *(cell(run.arms[key]) if run.arms else "-" for run in runs)]
        for key, arm in arms.items()
    ]


def main() -> int:
    """Prints the tables, and writes the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="WORKDIR")
    parser.add_argument("--style-swap", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="FILE.png")
    parser.add_argument("--num-images", type=int, default=8, help="in each round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            runs = [open_run(workdir, args.style_swap, Path(folder)) for workdir in args.runs]
    except UserError as error:
        print(f"heads.py: {error}", file=sys.stderr)
        return 2
    options = {"database": "poster", "num_images": args.num_images, "batch_size": args.num_images}
    calls = {run.name: lambda run=run: run.generator.sample("a red boat", **options) for run in runs}
    for call in calls.values():
        call()  # compiles
    times = interleave(calls, args.rounds)
    print(f"{args.num_images} images at once, medians of {args.rounds} rounds; {machine()}\n")
    rows = [run.row(times[run.name], times[runs[0].name], args.num_images) for run in runs]
    print(markdown_table(HEADER, rows))
    if args.style_swap:
        print("\n" + markdown_table(("arm", "samples", *(run.name for run in runs)), swap_rows(runs)))
    if args.out:
        Image.fromarray(sheet(runs)).save(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
