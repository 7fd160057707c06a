"""What retrieval gains on CIFAR-10: the RDM of configs/cifar10.py and the same model without retrieval.

All arms generate the same classes from the same noise. The classifier that evaluates the samples is trained apart from
the models (configs/cifar10.py describes how all of them are trained).

pip install matplotlib   # for the curves
python benchmarks/cifar10.py --runs runs/cifar10 --out docs/images/cifar10
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from machine import machine

from rdm_jax.bundle import Bundle
from rdm_jax.cli.progress import Progress
from rdm_jax.core import images, sheets
from rdm_jax.data.sources import open_source
from rdm_jax.evaluation.classifiers import AttributeClassifier
from rdm_jax.evaluation.metrics.copies import nearest_rmse
from rdm_jax.evaluation.metrics.frechet import Moments, frechet_distance
from rdm_jax.evaluation.statistics import Proportion
from rdm_jax.generator import Generator, join
from rdm_jax.retrieval.database import Database

REFERENCES = 5_000


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the models with one kind of condition.

    Attributes:
      label: in the table and the figure.
      model: "rdm" or "ldm".
      condition: of the request.
      from_rows: whether the query is a random image of the class from the database instead of the class's name.
    """

    label: str
    model: str
    condition: str
    from_rows: bool = False


ARMS = (
    Arm("LDM: class name", "ldm", "text"),
    Arm("RDM: class name alone", "rdm", "text"),
    Arm("RDM: class name and its neighbors", "rdm", "text+neighbors"),
    Arm("RDM: neighbors of an image of the class", "rdm", "neighbors", from_rows=True),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """The images of an arm, and their metrics.

    Attributes:
      images: [n, 32, 32, 3].
      right: the fraction that the classifier assigns to their class.
      frechet: the Frechet distance to real images in the classifier's features.
      nearest: the median RMSE to the nearest image of the database, in levels of 255.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    right: Proportion
    frechet: float
    nearest: float


def read_images(source: Any, rows: Sequence[int]) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns some images of a source."""
    return np.stack([source[int(row)].image for row in rows])


def queries(database: Database, classes: Sequence[str], seed: int) -> list[int]:
    """Returns a random row of the database for each class of the list."""
    folders = np.asarray(database.column("folder").to_pylist())
    rows = {name: np.flatnonzero(folders == name) for name in set(classes)}
    return [int(np.random.default_rng([seed, i]).choice(rows[name])) for i, name in enumerate(classes)]


def generate(
    generator: Generator, arm: Arm, database: Database, classes: Sequence[str], scale: float, steps: int, seed: int
) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns one image for each class of the list."""
    given = {"rows": queries(database, classes, seed)} if arm.from_rows else {"prompts": list(classes)}
    options = {"condition": arm.condition, "guidance_scale": scale, "steps": steps, "seed": seed, "batch_size": 50}
    plan = generator.plan(**given, database=None if arm.condition == "text" else database, **options)
    progress = Progress(f"{arm.label}, guidance {scale:g}", unit="step")
    return join(list(generator.generate(plan, progress))).images


def evaluate(
    classifier: AttributeClassifier,
    samples: UInt8[np.ndarray, "n h w 3"],
    classes: Sequence[str],
    real: Moments,
    others: np.ndarray,
) -> Result:
    """Returns the metrics of images of these classes.

    Args:
      classifier: trained apart from the models.
      samples: to evaluate.
      classes: of the samples.
      real: the moments of the features of real images.
      others: the images of the database.
    """
    output = classifier.classify(samples)
    right = output.correct([{"folder": name} for name in classes], "folder")
    moments = Moments.empty(output.features.shape[1]).add(output.features)
    correct = Proportion(int(right.sum()), len(right))
    return Result(samples, correct, frechet_distance(moments, real), float(np.median(nearest_rmse(samples, others))))


def table(results: dict[tuple[str, str], Result]) -> str:
    """Returns the results as Markdown."""
    lines = [
        "| arm | guidance | classified as its class, % | Frechet distance | RMSE to the nearest of the database |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (label, scale), one in results.items():
        low, high = one.right.interval
        rate = f"{100 * one.right.rate:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        lines.append(f"| {label} | {scale} | {rate} | {one.frechet:.2f} | {one.nearest:.1f} |")
    return "\n".join(lines)


def sheet(results: dict[tuple[str, str], Result], classes: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the figure: the first two images of every class, one row for each arm."""
    names = sorted(set(classes))
    chosen = [i for each in names for i in [i for i, name in enumerate(classes) if name == each][:2]]
    rows = {f"{label}, {scale}": one.images for (label, scale), one in results.items()}
    cells = np.stack([generated[chosen] for generated in rows.values()])
    labels = [label for name in names for label in (name, "")]
    return sheets.grid(cells, row_labels=list(rows), column_labels=labels, zoom=2)


def curves(runs: Path, out: Path) -> None:
    """Plots the losses of both runs over the steps: on held-out images, and by bands of the timesteps."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, color in (("ldm", "tab:orange"), ("rdm", "tab:blue")):
        lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        held = [(line["step"], line["eval/loss"]) for line in lines if "eval/loss" in line]
        axes[0].plot(*zip(*held, strict=True), marker="o", color=color, label=name.upper())
        for band, style in enumerate(("-", "--", "-.", ":")):
            points = [(line["step"], line[f"band_{band}"]) for line in lines if f"band_{band}" in line]
            values = np.array([value for _, value in points])
            smooth = np.convolve(np.pad(values, 2, mode="edge"), np.ones(5) / 5, mode="valid")
            axes[1].plot([step for step, _ in points], smooth, style, color=color, label=f"{name.upper()}, band {band}")
    axes[0].set_title("loss on held-out images, each model's own conditions")
    axes[1].set_title("training loss by quarter of the timesteps (0: least noise)")
    for axis in axes:
        axis.set_xlabel("step")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Generates and evaluates the images; writes the table, the figure and the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10"), help="the runs of configs/cifar10.py")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"), help="its images")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the figure and the curves")
    parser.add_argument("--samples", type=int, default=1000, help="images of each arm")
    parser.add_argument("--steps", type=int, default=25, help="of DDIM")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is not installed; pip install matplotlib")
    begin = time.monotonic()
    classifier = AttributeClassifier.open(args.runs / "classifier_bundle")
    names = classifier.classes["folder"]
    classes = [names[i % len(names)] for i in range(args.samples)]
    database = Database.open(args.runs / "database_of_half")
    source, half = open_source(str(args.data / "images")), open_source(str(args.data / "database"))
    order = np.random.default_rng(args.seed).permutation(len(source))
    features = classifier.classify(read_images(source, order[:REFERENCES].tolist())).features
    real = Moments.empty(features.shape[1]).add(features)
    others = read_images(half, range(len(half)))

    rest = order[REFERENCES : REFERENCES + args.samples].tolist()
    own = [str(source.labels(row)["path"]).split("/")[0] for row in rest]
    results = {("real images", "-"): evaluate(classifier, read_images(source, rest), own, real, others)}
    generators = {name: Generator.load(Bundle.open(args.runs / f"{name}_bundle")) for name in ("rdm", "ldm")}
    for arm in ARMS:
        for scale in args.guidance:
            generated = generate(generators[arm.model], arm, database, classes, scale, args.steps, args.seed)
            results[arm.label, f"{scale:g}"] = evaluate(classifier, generated, classes, real, others)
    args.out.mkdir(parents=True, exist_ok=True)
    generated = {key: one for key, one in results.items() if key[0] != "real images"}
    (args.out / "samples.png").write_bytes(images.encode(sheet(generated, classes)))
    curves(args.runs, args.out / "curves.png")
    report = f"{table(results)}\n\n{args.samples} images per arm, {args.steps} steps, seed {args.seed}; {machine()}; "
    sys.stdout.write(f"{report}{time.monotonic() - begin:.0f} s\n")


if __name__ == "__main__":
    main()
