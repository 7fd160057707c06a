"""Quality against the number of network evaluations: a model, samplers that need no training, and its students.

python benchmarks/few_steps.py --out runs/few_steps --student style-scenes-fast --student runs/student-2
python benchmarks/few_steps.py --out runs/few_steps --student runs/consistency:4 --student runs/consistency:2
python benchmarks/few_steps.py --out runs/few_steps --quick

Every run generates the same images of two arms of the style-swap measurement from the same noise: neutral prompts, each
with the database of a style, and prompts that name a style, with the general database. Of each run are measured how
often the embedded classifier, which no model was trained with, finds the requested style (in both arms), subject and
color (in the first); the Frechet distance of the first arm to real images with the same labels, in the features of that
classifier; and the distance of all images to those of DDIM in 50 trailing steps.

Writes results.json, table.csv, table.md, plot.png (which needs the extra `plots`) and grid.png. Images of finished runs
stay in images/, so the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from machine import machine
from step_plots import TEACHER, grid, plot

from rdm_jax.bundle import Bundle
from rdm_jax.cli.png import encode_png
from rdm_jax.cli.progress import Progress, note
from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.arms import ARMS, Cell, cells_of
from rdm_jax.evaluation.classifiers import AttributeClassifier, Classification, RealImages, real_images_like
from rdm_jax.evaluation.generation import ModelCellGenerator
from rdm_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from rdm_jax.evaluation.metrics.intervals import bootstrap_statistic
from rdm_jax.evaluation.report import markdown_table
from rdm_jax.evaluation.statistics import Mean
from rdm_jax.generator import Generator
from rdm_jax.heads.diffusion.few_steps import SECTION

ATTRIBUTES = ("style", "subject", "colour")
FIRST, NAMED = ARMS[:2]
RESAMPLES = 100
REFERENCE = (TEACHER, 50)
CURVES: Mapping[str, tuple[Mapping[str, str], tuple[int, ...]]] = {
    TEACHER: ({"sampler": "ddim", "spacing": "trailing"}, (50, 16, 8, 4, 2, 1)),
    "DPM-Solver++ 2M": ({"sampler": "dpmpp_2m", "spacing": "trailing"}, (16, 8, 4)),
    "UniPC": ({"sampler": "unipc", "spacing": "trailing"}, (8, 4)),
    "DDIM, compvis": ({"sampler": "ddim", "spacing": "compvis"}, (50,)),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One way of generating the images.

    Attributes:
      curve: the line of the plot that it belongs to.
      model: the name or folder of a model.
      options: of sampling, beside the model's own defaults.
      steps: of the sampler.
      evaluations: of the network for one image.
    """

    curve: str
    model: str
    options: Mapping[str, Any]
    steps: int
    evaluations: int

    @property
    def title(self) -> str:
        """The run's name in the table."""
        return f"{self.curve}, {self.steps} step{'s' if self.steps > 1 else ''}"


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a run and their classification."""

    run: Run
    images: UInt8[np.ndarray, "n h w 3"]
    classified: Classification


def runs_of(teacher: str, students: Sequence[str], scale: float) -> Iterator[Run]:
    """Yields the teacher's runs at a guidance scale, and one of each student.

    Args:
      teacher: the name or folder of a model.
      students: the name or folder of each, with a number of steps after a colon in place of its own.
      scale: of the teacher's guidance; 1 is none, and takes half the evaluations.
    """
    for curve, (options, counts) in CURVES.items():
        for steps in counts:
            yield Run(curve, teacher, {**options, "steps": steps}, steps, steps * (2 if scale != 1 else 1))
    for student in students:
        name, _, steps = student.partition(":")
        config = Bundle.open(name, parts=()).config
        if SECTION not in config:
            raise UserError(f"--student {name} is no student: its settings have no section {SECTION}")
        count = int(steps or config["sampling"]["steps"])
        yield Run(f"student, {config[SECTION]['method']}", name, {"steps": count}, count, count)


@functools.cache
def opened(model: str) -> Generator:
    """Returns a model, which the runs of one curve after another use."""
    return Generator.load(model)


def generate(run: Run, cells: Sequence[Cell], seed: int, batch: int, folder: Path) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns the images of a run; from its file, where the same run has been finished."""
    bundle = Bundle.open(run.model, parts=())
    stored = Bundle.open(run.model).hashes if run.model not in Bundle.names() else bundle.config["sha256"]
    identity = {
        "model": dict(stored),
        "options": {**bundle.config["sampling"], **run.options},
        "cells": [dataclasses.asdict(cell) for cell in cells],
        "seed": seed,
        "batch": batch,
    }
    file = folder / f"{run.curve}-{run.steps}-{files.sha256_json(identity)[:12]}.npz".replace(" ", "_")
    if file.is_file():
        return np.load(file)["images"]
    options = {**run.options, "seed": seed, "batch_size": batch}
    with Progress(run.title, unit="image") as progress:
        images = ModelCellGenerator(opened(run.model), None, options).generate(cells, progress).images
    folder.mkdir(parents=True, exist_ok=True)
    with files.replaced(file) as new, new.open("wb") as stream:
        np.savez_compressed(stream, images=images)
    return images


def labels_of(cells: Sequence[Cell]) -> list[dict[str, str]]:
    """Returns the labels that the image of each cell should have."""
    return [{name: getattr(cell, name) for name in ATTRIBUTES} for cell in cells]


def measure(
    classifier: AttributeClassifier, found: Images, reference: Images, real: Classification, labels: Sequence[Any]
) -> dict[str, Any]:
    """Returns the measures of a run's images as JSON values.

    Args:
      classifier: of the images.
      found: the run's images: those of the first arm, of which there are as many as real ones, and the others.
      reference: the images that the distance is measured to.
      real: images with the labels of the first arm.
      labels: that each image should have.
    """
    first = len(real.features)
    every = found.classified.features.astype(np.float64)
    features, moments = every[:first], moments_of(real.features)

    def distance(rows: np.ndarray) -> float:
        """Returns the Frechet distance of some of the images."""
        return frechet_distance(moments_of(features[rows]), moments)

    low, high = bootstrap_statistic(len(features), distance, RESAMPLES)
    pixels = np.square(found.images.astype(np.float64) - reference.images).mean(axis=(1, 2, 3))
    moved = np.linalg.norm(every - reference.classified.features, axis=1)
    rates = classifier.proportions(_rows(found.classified, slice(first)), labels[:first])
    named = classifier.proportions(_rows(found.classified, slice(first, None)), labels[first:])
    return {
        "curve": found.run.curve,
        "model": found.run.model,
        "options": dict(found.run.options),
        "steps": found.run.steps,
        "evaluations": found.run.evaluations,
        **{name: rates[name].to_json() for name in ATTRIBUTES},
        "named_style": named["style"].to_json(),
        "frechet": {"value": distance(np.arange(len(features))), "low": low, "high": high},
        "pixels": Mean.of(np.sqrt(pixels)).to_json(),
        "features": Mean.of(moved).to_json(),
    }


def _rows(classified: Classification, rows: slice) -> Classification:
    """Returns the classification of some of the images."""
    return Classification({name: found[rows] for name, found in classified.named.items()}, classified.features[rows])


def of_real(classifier: AttributeClassifier, labels: Sequence[Any], real: Classification) -> dict[str, Any]:
    """Returns what real images reach: other ones with the same labels."""
    other: RealImages = real_images_like(labels, 2)
    classified = classifier.classify(other.images)
    rates = classifier.proportions(classified, other.labels)
    distance = frechet_distance(moments_of(classified.features), moments_of(real.features))
    return {**{name: rates[name].to_json() for name in ATTRIBUTES}, "frechet": distance}


HEAD = (
    "images",
    "evaluations",
    "style, %",
    "subject, %",
    "color, %",
    "named style, %",
    "Fréchet",
    "pixels",
    "features",
)
RATES = (*ATTRIBUTES, "named_style")


def rows_of(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns the lines of the table, each value with its interval."""
    lines = []
    for row in results["runs"]:
        frechet, pixels, moved = row["frechet"], row["pixels"], row["features"]
        lines.append(
            [
                f"{row['curve']}, {row['steps']} step{'s' if row['steps'] > 1 else ''}",
                str(row["evaluations"]),
                *(_percent(row[name]) for name in RATES),
                f"{frechet['value']:.2f} ({frechet['low']:.2f}-{frechet['high']:.2f})",
                f"{pixels['mean']:.1f} ± {pixels['high'] - pixels['mean']:.1f}",
                f"{moved['mean']:.2f} ± {moved['high'] - moved['mean']:.2f}",
            ]
        )
    real = results["real"]
    rates = (_percent(real[name]) for name in ATTRIBUTES)
    lines.append(["real images", "-", *rates, "-", f"{real['frechet']:.2f}", "-", "-"])
    return lines


def _percent(rate: Mapping[str, Any]) -> str:
    return f"{100 * rate['rate']:.1f} ({100 * rate['low']:.1f}-{100 * rate['high']:.1f})"


def write(results: Mapping[str, Any], every: Sequence[Images], cells: Sequence[Cell], out: Path) -> str:
    """Writes all results to a folder, and returns the table."""
    table = markdown_table(HEAD, rows_of(results))
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([HEAD, *rows_of(results)])
    contents = {
        "results.json": json.dumps(results, indent=1).encode(),
        "table.csv": written.getvalue().encode(),
        "table.md": f"{table}\n".encode(),
        "grid.png": encode_png(grid([(one.run, one.images) for one in every], cells)),
        "plot.png": plot(results["runs"], results["real"]["frechet"]),
    }
    for name, content in contents.items():
        if content is not None:
            files.write_bytes(out / name, content)
    return table


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", default="style-scenes", metavar="NAME|DIR", help="the teacher (%(default)s)")
    parser.add_argument(
        "--student", action="append", default=[], metavar="NAME|DIR[:STEPS]", help="a few-step model (repeatable)"
    )
    parser.add_argument("--samples", type=int, default=480, metavar="N", help="of the first arm (%(default)s)")
    parser.add_argument("--named", type=int, default=120, metavar="N", help="of the second arm (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="24 images of each arm")
    args = parser.parse_args(arguments)
    if args.quick:
        args.samples = args.named = 24
    return args


def main() -> int:
    """Generates what is missing, measures and writes."""
    args = parse()
    cells = [*cells_of(FIRST, args.samples), *cells_of(NAMED, args.named)]
    labels = labels_of(cells)
    try:
        scale = float(Bundle.open(args.model, parts=()).config["sampling"]["guidance_scale"])
        classifier = AttributeClassifier.open()
        every = []
        for run in runs_of(args.model, args.student, scale):
            images = generate(run, cells, args.seed, args.batch_size, args.out / "images")
            every.append(Images(run, images, classifier.classify(images)))
    except UserError as error:
        sys.exit(f"benchmarks/few_steps.py: {error}")
    note("measuring")
    reference = next(one for one in every if (one.run.curve, one.run.steps) == REFERENCE)
    of_first = labels[: args.samples]
    real = classifier.classify(real_images_like(of_first, 1).images)
    results = {
        "machine": machine(),
        "samples": {FIRST.name: args.samples, NAMED.name: args.named},
        "seed": args.seed,
        "classifier": classifier.bundle.name,
        "runs": [measure(classifier, one, reference, real, labels) for one in every],
        "real": of_real(classifier, of_first, real),
    }
    print(write(results, every, cells, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
