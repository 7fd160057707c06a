"""`rdm evaluate style-swap`: whether swapping the database swaps the style, by judges that share nothing with CLIP."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.progress import Progress, format_seconds, note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.evaluation.arms import Arm
    from rdm_jax.evaluation.comparisons import Judged
    from rdm_jax.evaluation.judges import Judge
    from rdm_jax.evaluation.style_swap import Sizes

DEFAULT_MODEL = "style-scenes"
JUDGE_CONFIG = Path("configs/style_scenes/judge.py")
ROOT = Path(__file__).resolve().parents[2]  # of a checkout, which holds the configs; an installed package has none
SCHEMA = 1

HELP = """measure a model

  rdm evaluate style-swap --out results            all arms: 1,000 samples of the first, 200 of each other
  rdm evaluate style-swap --out results --quick    a few samples of each, to see that all is in place

Draws from every style's database and from the general one, lets independent classifiers name subject, colour and
style, and writes results.json, results.md and grid.png."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    measures = parser.add_subparsers(dest="measure", required=True, metavar="MEASURE")
    swap = measures.add_parser("style-swap", help="does another database mean another style?")
    swap.add_argument("--out", required=True, metavar="DIR", help="the folder to write; a used one gets run-002/")
    swap.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|DIR", help="(default: %(default)s)")
    swap.add_argument(
        "--databases", type=Path, metavar="DIR", help="folder of databases named as the styles, and `general`"
    )
    swap.add_argument("--samples", type=int, metavar="N", help="samples of the first arm (default: 1000)")
    swap.add_argument("--arm-samples", type=int, metavar="N", help="samples of each other arm (default: 200)")
    swap.add_argument("--arm", action="append", default=[], metavar="NAME", help="draw this arm alone (repeatable)")
    swap.add_argument("--condition", metavar="C", help="neighbors or text+neighbors; the model's own by default")
    swap.add_argument("--quick", action="store_true", help="a few samples of each arm")
    swap.add_argument("--batch-size", type=int, default=8, metavar="B", help="pictures drawn at once (default: 8)")
    swap.add_argument("--steps", type=int, metavar="S", help="sampling steps; the model's own by default")
    swap.add_argument("--guidance-scale", type=float, metavar="G", help="the model's own by default")
    swap.add_argument("--seed", type=int, default=0, metavar="I", help="(default: %(default)s)")
    judges = swap.add_mutually_exclusive_group()
    judges.add_argument("--judges", type=Path, metavar="DIR", help="a trained judge; the embedded one by default")
    judges.add_argument(
        "--train-judges", type=Path, metavar="DIR", help=f"train the judge in this folder first, by {JUDGE_CONFIG}"
    )
    swap.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> None:
    """Measures; everything is checked before the first picture is drawn, and written at the end."""
    begin = time.monotonic()
    sizes = _sizes(args)
    from rdm_jax.cli import outputs
    from rdm_jax.evaluation.drawing import ModelArtist, reconstructor
    from rdm_jax.evaluation.style_swap import measure
    from rdm_jax.generator import Generator

    out = Path(args.out).expanduser()
    outputs.check_writable(out)
    arms = _arms(args.arm)
    generator = Generator.load(args.model)
    options = {name: getattr(args, name) for name in ("condition", "batch_size", "steps", "guidance_scale", "seed")}
    artist = ModelArtist(generator, args.databases, options)
    databases = artist.check(arms)
    judge = _judge(args)
    note(f"model {generator.bundle.name}, judge {judge.bundle.name}, {len(databases)} databases")
    results, judged = measure(artist, reconstructor(generator.bundle), judge, sizes, _Stages(args.quiet), arms=arms)
    record = {
        "schema": SCHEMA,
        "arguments": {"sizes": dataclasses.asdict(sizes), "settings": artist.settings},
        "versions": outputs.versions(),
        "model": {**outputs.identity(generator.bundle), "parts": generator.bundle.hashes},
        "judge_model": {
            **outputs.identity(judge.bundle),
            **{key: judge.bundle.config.get(key) for key in ("judging", "training")},
        },
        "databases": [{**outputs.identity(database), "rows": len(database)} for database in databases],
        **results,
        "seconds": round(time.monotonic() - begin, 1),
    }
    folder = _write(out, record, judged, f"Style swap of {generator.bundle.name}")
    note(f"done in {format_seconds(time.monotonic() - begin)}")
    sys.stdout.write(f"{folder}\n")


def _sizes(args: argparse.Namespace) -> Sizes:
    from rdm_jax.evaluation.style_swap import QUICK, Sizes

    for option, value in (("--samples", args.samples), ("--arm-samples", args.arm_samples)):
        if value is not None and value < 2:
            raise UserError(f"{option} {value} is too few; give 2 or more")
    sizes = QUICK if args.quick else Sizes()
    return dataclasses.replace(
        sizes,
        first=sizes.first if args.samples is None else args.samples,
        least=sizes.least if args.arm_samples is None else args.arm_samples,
    )


def _arms(names: list[str]) -> tuple[Arm, ...]:
    from rdm_jax.core.errors import unknown
    from rdm_jax.evaluation.arms import ARMS

    known = [arm.name for arm in ARMS]
    for name in names:
        if name not in known:
            raise unknown("arm", name, known)
    return tuple(arm for arm in ARMS if not names or arm.name in names)


def _judge(args: argparse.Namespace) -> Judge:
    from rdm_jax.evaluation.judges import Judge

    if not args.train_judges:
        return Judge.open(args.judges)
    from rdm_jax.cli import train
    from rdm_jax.training.export import export_run

    train.run(
        argparse.Namespace(config=str(ROOT / JUDGE_CONFIG), workdir=args.train_judges, init_from=None, overrides=[])
    )
    return Judge(export_run(args.train_judges))


def _write(out: Path, record: dict[str, Any], judged: dict[str, Judged], title: str) -> Path:
    """Writes the tables, the grid and, last of all, results.json; shows the tables."""
    from rdm_jax.cli import outputs
    from rdm_jax.cli.png import encode_png
    from rdm_jax.core import files
    from rdm_jax.evaluation import report

    with outputs.run_folder(out) as folder:
        grid = report.grid(judged.values())
        if grid is not None:
            outputs.write_new(folder / "grid.png", encode_png(grid))
        outputs.write_new(folder / "results.md", report.markdown(record, title).encode())
        outputs.write_new(folder / "results.json", files.json_bytes(record))
    sys.stdout.write(report.screen(record) + "\n")
    return folder


class _Stages:
    """Shows one progress after another, as the measurement goes from stage to stage."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stage = ""
        self._shown: Progress | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._stage:
            self._stage, self._shown = what, Progress(what, unit="picture", quiet=self._quiet)
        assert self._shown is not None
        self._shown(done, total)
