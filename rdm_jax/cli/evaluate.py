"""`rdm evaluate`: whether another database means another style, and whether guidance does what it promises."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rdm_jax.cli.progress import Progress, format_seconds, note
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.bundle import Bundle
    from rdm_jax.evaluation.arms import Arm
    from rdm_jax.evaluation.bench import Sizes as GuidanceSizes
    from rdm_jax.evaluation.judges import Judge
    from rdm_jax.evaluation.methods import Method
    from rdm_jax.evaluation.style_swap import Sizes
    from rdm_jax.retrieval.database import Database

T = TypeVar("T")
GENERAL = "general"

DEFAULT_MODEL = "style-scenes"
JUDGE_CONFIG = Path("configs/style_scenes/judge.py")
ROOT = Path(__file__).resolve().parents[2]  # of a checkout, which holds the configs; an installed package has none
SCHEMA = 1

HELP = """measure a model

  rdm evaluate style-swap --out results            all arms: 1,000 samples of the first, 200 of each other
  rdm evaluate style-swap --out results --quick    a few samples of each, to see that all is in place
  rdm evaluate guidance --out results              every way of bending a run, each beside the run without it

Style-swap draws from every style's database and from the general one, lets independent classifiers name subject, colour
and style, and writes results.json, results.md and grid.png. Guidance writes curves.png as well: quality against
alignment over the weight."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    measures = parser.add_subparsers(dest="measure", required=True, metavar="MEASURE")
    swap = measures.add_parser("style-swap", help="does another database mean another style?")
    _add_common(swap, "folder of databases named as the styles, and `general`", "a few samples of each arm")
    swap.add_argument("--samples", type=int, metavar="N", help="samples of the first arm (default: 1000)")
    swap.add_argument("--arm-samples", type=int, metavar="N", help="samples of each other arm (default: 200)")
    swap.add_argument("--arm", action="append", default=[], metavar="NAME", help="draw this arm alone (repeatable)")
    swap.add_argument("--condition", metavar="C", help="neighbors or text+neighbors; the model's own by default")
    swap.add_argument("--batch-size", type=int, default=8, metavar="B", help="pictures drawn at once (default: 8)")
    swap.add_argument("--steps", type=int, metavar="S", help="sampling steps; the model's own by default")
    swap.add_argument("--guidance-scale", type=float, metavar="G", help="the model's own by default")
    guidance = measures.add_parser("guidance", help="does guidance do what it promises?")
    _add_common(guidance, "folder of databases; `general` is used, all where there is none", "a few pictures of each")
    guidance.add_argument(
        "--method", action="append", default=[], metavar="NAME", help="measure this one alone (repeatable)"
    )
    guidance.add_argument("--targets", type=int, metavar="N", help="references and prompts (default: 24)")
    guidance.add_argument("--steps", type=int, metavar="S", help="sampling steps (default: 20)")


def _add_common(parser: argparse.ArgumentParser, databases: str, quick: str) -> None:
    """Adds the options that every measure has.

    Args:
      parser: of the measure.
      databases: what the folder of --databases holds.
      quick: what --quick does.
    """
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; a used one gets run-002/")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|DIR", help="(default: %(default)s)")
    parser.add_argument("--databases", type=Path, metavar="DIR", help=databases)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--seed", type=int, default=0, metavar="I", help="(default: %(default)s)")
    judges = parser.add_mutually_exclusive_group()
    judges.add_argument("--judges", type=Path, metavar="DIR", help="a trained judge; the embedded one by default")
    judges.add_argument(
        "--train-judges", type=Path, metavar="DIR", help=f"train the judge in this folder first, by {JUDGE_CONFIG}"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> None:
    """Measures; everything is checked before the first picture is drawn, and written at the end."""
    from rdm_jax.cli import outputs

    begin = time.monotonic()
    out = Path(args.out).expanduser()
    found = (_style_swap if args.measure == "style-swap" else _guidance)(args, out)
    record = {
        "schema": SCHEMA,
        "arguments": found.arguments,
        "versions": outputs.versions(),
        "model": {**outputs.identity(found.bundle), "parts": found.bundle.hashes},
        "judge_model": {
            **outputs.identity(found.judge.bundle),
            **{key: found.judge.bundle.config.get(key) for key in ("judging", "training")},
        },
        "databases": [{**outputs.identity(database), "rows": len(database)} for database in found.databases],
        **found.results,
        "seconds": round(time.monotonic() - begin, 1),
    }
    folder = _write(out, record, found)
    note(f"done in {format_seconds(time.monotonic() - begin)}")
    sys.stdout.write(f"{folder}\n")


@dataclasses.dataclass(frozen=True)
class _Found:
    """What a measure found, and what it measured with.

    Attributes:
      results: as JSON values.
      arguments: what was asked for.
      bundle: the model.
      judge: of its pictures.
      databases: that it drew from.
      markdown: all tables.
      screen: those that are shown.
      pictures: what is drawn of the results, by the name of its file.
    """

    results: dict[str, Any]
    arguments: dict[str, Any]
    bundle: Bundle
    judge: Judge
    databases: Sequence[Database]
    markdown: str
    screen: str
    pictures: Mapping[str, np.ndarray | None]


def _style_swap(args: argparse.Namespace, out: Path) -> _Found:
    """Measures whether another database means another style."""
    sizes = _sizes(args)
    from rdm_jax.cli import outputs
    from rdm_jax.evaluation import report
    from rdm_jax.evaluation.drawing import ModelArtist, reconstructor
    from rdm_jax.evaluation.style_swap import measure
    from rdm_jax.generator import Generator

    outputs.check_writable(out)
    arms = _arms(args.arm)
    generator = Generator.load(args.model)
    options = {name: getattr(args, name) for name in ("condition", "batch_size", "steps", "guidance_scale", "seed")}
    artist = ModelArtist(generator, args.databases, options)
    databases = artist.check(arms)
    judge = _judge(args)
    _introduce(generator.bundle, judge, databases)
    results, judged = measure(artist, reconstructor(generator.bundle), judge, sizes, _Stages(args.quiet), arms=arms)
    return _Found(
        results=results,
        arguments={"sizes": dataclasses.asdict(sizes), "settings": artist.settings},
        bundle=generator.bundle,
        judge=judge,
        databases=databases,
        markdown=report.markdown(results, f"Style swap of {generator.bundle.name}"),
        screen=report.screen(results),
        pictures={"grid.png": report.grid(judged.values())},
    )


def _guidance(args: argparse.Namespace, out: Path) -> _Found:
    """Measures whether guidance does what it promises."""
    methods, sizes = _methods(args.method), _guidance_sizes(args)
    from rdm_jax.cli import outputs
    from rdm_jax.evaluation import guidance_report as report
    from rdm_jax.evaluation.bench import open_bench
    from rdm_jax.evaluation.guidance import measure
    from rdm_jax.generator import Generator

    outputs.check_writable(out)
    generator = Generator.load(args.model)
    databases = _databases(args.databases)
    for database in databases:
        database.check_encoder(generator.encoder.identity)
    judge = _judge(args)
    _introduce(generator.bundle, judge, databases)
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(generator, databases, judge, sizes, Path(folder), args.seed)
        results, shown = measure(bench, _Stages(args.quiet), methods)
    return _Found(
        results=results,
        arguments={"sizes": dataclasses.asdict(sizes), "seed": args.seed},
        bundle=generator.bundle,
        judge=judge,
        databases=databases,
        markdown=report.markdown(results, f"Guidance of {generator.bundle.name}"),
        screen=report.screen(results),
        pictures={
            "grid.png": report.grid(bench.targets, sizes.images, shown, results),
            "curves.png": report.curves(results),
        },
    )


def _introduce(bundle: Bundle, judge: Judge, databases: Sequence[Database]) -> None:
    """Says what is measured with what."""
    count = f"{len(databases)} database{'s' if len(databases) > 1 else ''}"
    note(f"model {bundle.name}, judge {judge.bundle.name}, {count}")


def _databases(folder: Path | None) -> list[Database]:
    """Returns the embedded database `general`, that of a folder, or all of a folder that has none.

    Raises:
      UserError: the folder holds no database.
    """
    from rdm_jax.retrieval.database import Database

    if folder is None or (folder / GENERAL).is_dir():
        return [Database.open(folder / GENERAL if folder else GENERAL)]
    found = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if not found:
        raise UserError(f"{folder} holds no database; give a folder of folders that rdm database build made")
    return [Database.open(path) for path in found]


def _guidance_sizes(args: argparse.Namespace) -> GuidanceSizes:
    from rdm_jax.evaluation.bench import QUICK
    from rdm_jax.evaluation.bench import Sizes as GuidanceSizes

    sizes = QUICK if args.quick else GuidanceSizes()
    for option, number in (("--targets", args.targets), ("--steps", args.steps)):
        if number is not None and number < 2:
            raise UserError(f"{option} {number} is too few; give 2 or more")
    return dataclasses.replace(sizes, targets=args.targets or sizes.targets, steps=args.steps or sizes.steps)


def _methods(wanted: list[str]) -> tuple[Method, ...]:
    from rdm_jax.evaluation.methods import METHODS

    return _chosen("method", wanted, {method.name: method for method in METHODS})


def _chosen(what: str, wanted: list[str], known: Mapping[str, T]) -> tuple[T, ...]:
    """Returns what is wanted by name, all where nothing is; raises UserError for a name that is unknown."""
    from rdm_jax.core.errors import unknown

    for name in wanted:
        if name not in known:
            raise unknown(what, name, known)
    return tuple(one for name, one in known.items() if not wanted or name in wanted)


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
    from rdm_jax.evaluation.arms import ARMS

    return _chosen("arm", names, {arm.name: arm for arm in ARMS})


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


def _write(out: Path, record: dict[str, Any], found: _Found) -> Path:
    """Writes the pictures, the tables and, last of all, results.json; shows the tables."""
    from rdm_jax.cli import outputs
    from rdm_jax.cli.png import encode_png
    from rdm_jax.core import files

    with outputs.run_folder(out) as folder:
        for name, picture in found.pictures.items():
            if picture is not None:
                outputs.write_new(folder / name, encode_png(picture))
        outputs.write_new(folder / "results.md", found.markdown.encode())
        outputs.write_new(folder / "results.json", files.json_bytes(record))
    sys.stdout.write(found.screen + "\n")
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
