"""What retrieval bought on CIFAR-10: the RDM of configs/cifar10.py and its twin without retrieval, judged on samples.

Every arm draws the same classes from the same noise; the judge shares nothing with the models (configs/cifar10.py
tells how all of them are trained).

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
from rdm_jax.evaluation.judges import Judge
from rdm_jax.evaluation.statistics import Moments, Share, frechet_distance, nearest_rmse
from rdm_jax.generator import Generator, join
from rdm_jax.retrieval.database import Database

REFERENCES = 5_000


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of asking one of the models.

    Attributes:
      label: in the table and the sheet.
      model: "rdm" or "ldm".
      condition: what the network sees.
      from_rows: whether the query is a random picture of the class, of the database, in place of the class's name.
    """

    label: str
    model: str
    condition: str
    from_rows: bool = False


ARMS = (
    Arm("LDM: class name", "ldm", "text"),
    Arm("RDM: class name alone", "rdm", "text"),
    Arm("RDM: class name and its neighbours", "rdm", "text+neighbors"),
    Arm("RDM: neighbours of a picture of the class", "rdm", "neighbors", from_rows=True),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """Pictures of an arm, and what the judge says of them.

    Attributes:
      images: [n, 32, 32, 3].
      right: how many are named as their class.
      frechet: the distance to real pictures, in the judge's features.
      nearest: the median difference to the nearest picture of the database, in levels of 255.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    right: Share
    frechet: float
    nearest: float


def pictures_of(source: Any, rows: Sequence[int]) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns some pictures of a source."""
    return np.stack([source[int(row)].image for row in rows])


def queries(database: Database, classes: Sequence[str], seed: int) -> list[int]:
    """Returns for each wanted class a random row of the database that has it."""
    folders = np.asarray(database.column("folder").to_pylist())
    rows = {name: np.flatnonzero(folders == name) for name in set(classes)}
    return [int(np.random.default_rng([seed, i]).choice(rows[name])) for i, name in enumerate(classes)]


def draw(
    generator: Generator, arm: Arm, database: Database, classes: Sequence[str], scale: float, steps: int, seed: int
) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns one picture for each class of the list."""
    asked = {"rows": queries(database, classes, seed)} if arm.from_rows else {"prompts": list(classes)}
    settings = {"condition": arm.condition, "guidance_scale": scale, "steps": steps, "seed": seed, "batch_size": 50}
    held = None if arm.condition == "text" else database
    plan = generator.plan(**asked, database=held, **settings)
    progress = Progress(f"{arm.label}, guidance {scale:g}", unit="step")
    return join(list(generator.draw(plan, progress))).images


def judged(
    judge: Judge, drawn: UInt8[np.ndarray, "n h w 3"], classes: Sequence[str], real: Moments, others: np.ndarray
) -> Result:
    """Returns what the judge says of pictures of these classes."""
    verdict = judge.judge(drawn)
    right = verdict.correct([{"folder": name} for name in classes], "folder")
    moments = Moments.empty(verdict.features.shape[1]).add(verdict.features)
    share = Share(int(right.sum()), len(right))
    return Result(drawn, share, frechet_distance(moments, real), float(np.median(nearest_rmse(drawn, others))))


def table(results: dict[tuple[str, str], Result]) -> str:
    """Returns the results as Markdown."""
    lines = [
        "| arm | guidance | named as its class, % | Frechet distance | to the nearest of the database |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (label, scale), one in results.items():
        low, high = one.right.interval
        share = f"{100 * one.right.rate:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        lines.append(f"| {label} | {scale} | {share} | {one.frechet:.2f} | {one.nearest:.1f} |")
    return "\n".join(lines)


def sheet(results: dict[tuple[str, str], Result], classes: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the first two pictures of every class of every arm, one row each."""
    names = sorted(set(classes))
    shown = [[i for i, name in enumerate(classes) if name == wanted][:2] for wanted in names]
    rows = {f"{label}, {scale}": one.images for (label, scale), one in results.items()}
    cells = np.stack([np.stack([drawn[i] for pair in shown for i in pair]) for drawn in rows.values()])
    labels = [name for wanted in names for name in (wanted, "")]
    return sheets.grid(cells, row_labels=list(rows), column_labels=labels, zoom=2)


def curves(runs: Path, out: Path) -> None:
    """Draws the losses of both runs, on held-out pictures and by bands of time, over the steps."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, colour in (("ldm", "tab:orange"), ("rdm", "tab:blue")):
        lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        held = [(line["step"], line["eval/loss"]) for line in lines if "eval/loss" in line]
        axes[0].plot(*zip(*held, strict=True), marker="o", color=colour, label=name.upper())
        for band, style in enumerate(("-", "--", "-.", ":")):
            told = [(line["step"], line[f"band_{band}"]) for line in lines if f"band_{band}" in line]
            values = np.array([value for _, value in told])
            smooth = np.convolve(np.pad(values, 2, mode="edge"), np.ones(5) / 5, mode="valid")
            axes[1].plot([step for step, _ in told], smooth, style, color=colour, label=f"{name.upper()}, band {band}")
    axes[0].set_title("loss on held-out pictures, each model's own conditions")
    axes[1].set_title("training loss by quarter of the times (0: least noise)")
    for axis in axes:
        axis.set_xlabel("step")
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Draws, judges, and writes the table, the sheet and the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10"), help="where configs/cifar10.py's runs lie")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"), help="where its pictures lie")
    parser.add_argument("--out", type=Path, required=True, help="the folder for table, sheet and curves")
    parser.add_argument("--samples", type=int, default=1000, help="pictures of each arm")
    parser.add_argument("--steps", type=int, default=25, help="of DDIM")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is not installed; pip install matplotlib")
    begin = time.monotonic()
    judge = Judge.open(args.runs / "judge_bundle")
    names = judge.classes["folder"]
    classes = [names[i % len(names)] for i in range(args.samples)]
    database = Database.open(args.runs / "database_of_half")
    source, half = open_source(str(args.data / "pictures")), open_source(str(args.data / "database"))
    order = np.random.default_rng(args.seed).permutation(len(source))
    features = judge.judge(pictures_of(source, order[:REFERENCES].tolist())).features
    real = Moments.empty(features.shape[1]).add(features)
    others = pictures_of(half, range(len(half)))

    rest = order[REFERENCES : REFERENCES + args.samples].tolist()
    own = [str(source.labels(row)["path"]).split("/")[0] for row in rest]
    results = {("real pictures", "-"): judged(judge, pictures_of(source, rest), own, real, others)}
    generators = {name: Generator.load(Bundle.open(args.runs / f"{name}_bundle")) for name in ("rdm", "ldm")}
    for arm in ARMS:
        for scale in args.guidance:
            drawn = draw(generators[arm.model], arm, database, classes, scale, args.steps, args.seed)
            results[arm.label, f"{scale:g}"] = judged(judge, drawn, classes, real, others)
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = {key: one for key, one in results.items() if key[0] != "real pictures"}
    (args.out / "samples.png").write_bytes(images.encode(sheet(drawn, classes)))
    curves(args.runs, args.out / "curves.png")
    told = f"{table(results)}\n\n{args.samples} pictures an arm, {args.steps} steps, seed {args.seed}; {machine()}; "
    sys.stdout.write(f"{told}{time.monotonic() - begin:.0f} s\n")


if __name__ == "__main__":
    main()
