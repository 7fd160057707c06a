"""`rdm evaluate`: whether another database means another style, and whether guidance has its expected effects."""

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
from rdm_jax.cli.readers import number
from rdm_jax.core import paths
from rdm_jax.core.errors import UserError
from rdm_jax.request import MOST

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.bundle import Bundle
    from rdm_jax.evaluation.arms import Arm
    from rdm_jax.evaluation.bench import Sizes as GuidanceSizes
    from rdm_jax.evaluation.classifiers import AttributeClassifier
    from rdm_jax.evaluation.icon_set import Arm as IconArm
    from rdm_jax.evaluation.icon_set_bench import Bench as IconBench
    from rdm_jax.evaluation.methods import Method
    from rdm_jax.evaluation.style_swap import Sizes
    from rdm_jax.generator import Generator
    from rdm_jax.retrieval.database import Database

T = TypeVar("T")
GENERAL = "general"

DEFAULT_MODEL = "style-scenes"
CLASSIFIER_CONFIG = "style_scenes/classifier"
ICON_MODEL = "icons"
ICON_CLASSIFIER_CONFIG = "icons/classifier"
CONTENT = "content"  # the database of icons of all other styles
SCHEMA = 1
MAX_SEED = 2**32 - 1_000_000  # of guidance, which adds to it

HELP = """measure a model

  rdm evaluate style-swap --out results            all arms: 1,000 samples of the first, 200 of each other
  rdm evaluate style-swap --out results --quick    a few samples of each arm, as a test
  rdm evaluate guidance --out results              every guidance method, each beside images without it
  rdm evaluate icon-set --out results --databases DIR --classifier DIR   icons of styles that no training saw

Style-swap generates with every style's database and with the general one, classifies subject, color and style by an
independent classifier, and writes results.json, results.md and grid.png. Guidance writes curves.png as well: quality
against alignment over the weight. Icon-set generates words in held-out styles, without their own icons of the words,
beside baselines, and writes a sheet of every arm."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    measures = parser.add_subparsers(dest="measure", required=True, metavar="MEASURE")
    swap = measures.add_parser("style-swap", help="does another database mean another style?")
    _add_common(swap, "folder of databases named as the styles, and `general`", "a few samples of each arm")
    swap.add_argument("--samples", type=int, metavar="N", help="samples of the first arm (default: 1000)")
    swap.add_argument("--arm-samples", type=int, metavar="N", help="samples of each other arm (default: 200)")
    swap.add_argument("--arm", action="append", default=[], metavar="NAME", help="measure this arm alone (repeatable)")
    swap.add_argument("--condition", metavar="C", help="neighbors or text+neighbors; the model's own by default")
    swap.add_argument("--batch-size", type=int, default=8, metavar="B", help="images generated at once (default: 8)")
    swap.add_argument("--steps", type=int, metavar="S", help="sampling steps; the model's own by default")
    swap.add_argument("--guidance-scale", type=float, metavar="G", help="the model's own by default")
    guidance = measures.add_parser("guidance", help="does guidance have its expected effects?")
    _add_common(guidance, "folder of databases; `general` is used, or all if there is none", "a few images of each")
    guidance.add_argument(
        "--method", action="append", default=[], metavar="NAME", help="measure this one alone (repeatable)"
    )
    guidance.add_argument("--targets", type=int, metavar="N", help="references and prompts (default: 24)")
    guidance.add_argument("--steps", type=int, metavar="S", help="sampling steps (default: 20)")

    icons = measures.add_parser("icon-set", help="are icons made in styles that no training saw?")
    _add_common(
        icons,
        "folder of databases named as the held-out styles, and `content`",
        "a few words and styles",
        model=ICON_MODEL,
        config=ICON_CLASSIFIER_CONFIG,
    )
    icons.add_argument("--arm", action="append", default=[], metavar="NAME", help="measure this arm alone (repeatable)")
    icons.add_argument("--style", action="append", default=[], metavar="NAME", help="of this style (repeatable)")
    icons.add_argument("--words", type=number(int, 1, 10**6), metavar="N", help="words of each group (default: all)")
    icons.add_argument(
        "--candidates",
        type=number(int, 1, MOST["candidates"]),
        nargs="+",
        default=[1],
        metavar="N",
        help="images generated for each one that is kept; several make an arm each (default: 1)",
    )
    icons.add_argument(
        "--other", action="append", default=[], metavar="NAME=MODEL", help="another model as an arm (repeatable)"
    )
    icons.add_argument("--tags", type=Path, metavar="DIR", help="folder of the packages with designers' tags")
    icons.add_argument("--batch-size", type=int, metavar="B", help="images generated at once; the default fits most")
    icons.add_argument("--steps", type=int, metavar="S", help="sampling steps; the model's own by default")
    icons.add_argument("--guidance-scale", type=float, metavar="G", help="the model's own by default")
    icons.add_argument("--style-scale", type=float, metavar="G", help="of the style alone; the model's own by default")


def _add_common(
    parser: argparse.ArgumentParser,
    databases: str,
    quick: str,
    model: str = DEFAULT_MODEL,
    config: str = CLASSIFIER_CONFIG,
) -> None:
    """Adds the options that every measure has.

    Args:
      parser: of the measure.
      databases: the help of --databases.
      quick: the help of --quick.
      model: the default of --model.
      config: of the classifier of --train-classifier.
    """
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to write; a used one gets run-002/"
    )
    parser.add_argument("--model", default=model, metavar="NAME|DIR", help="(default: %(default)s)")
    parser.add_argument("--databases", type=Path, metavar="DIR", help=databases)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--seed", type=int, default=0, metavar="I", help="(default: %(default)s)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--classifier", metavar="DIR", help="a trained classifier, a folder or an address; the embedded one by default"
    )
    group.add_argument(
        "--train-classifier",
        metavar="DIR",
        help=f"train the classifier in this folder or address first, by {config}",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> None:
    """Measures; everything is checked before the first image is generated, and written at the end."""
    from rdm_jax.cli import outputs

    begin = time.monotonic()
    measured = {"style-swap": _style_swap, "guidance": _guidance, "icon-set": _icon_set}[args.measure](args, args.out)
    record = {
        "schema": SCHEMA,
        "arguments": measured.arguments,
        "versions": outputs.versions(),
        "model": {**outputs.identity(measured.bundle), "parts": measured.bundle.hashes},
        "classifier_model": {
            **outputs.identity(measured.classifier.bundle),
            **{key: measured.classifier.bundle.config.get(key) for key in ("evaluation", "training")},
        },
        "databases": [{**outputs.identity(database), "rows": len(database)} for database in measured.databases],
        **measured.results,
        "seconds": round(time.monotonic() - begin, 1),
    }
    folder = _write(args.out, record, measured)
    note(f"done in {format_seconds(time.monotonic() - begin)}")
    sys.stdout.write(f"{folder}\n")


@dataclasses.dataclass(frozen=True)
class _Measured:
    """The results of a measure, and what it was measured with.

    Attributes:
      results: as JSON values.
      arguments: of the measure.
      bundle: the model.
      classifier: of its images.
      databases: of its neighbors.
      markdown: all tables.
      screen: the tables that are printed.
      images: {file name: image of the results}, None for a file that is not written.
    """

    results: dict[str, Any]
    arguments: dict[str, Any]
    bundle: Bundle
    classifier: AttributeClassifier
    databases: Sequence[Database]
    markdown: str
    screen: str
    images: Mapping[str, np.ndarray | None]


def _style_swap(args: argparse.Namespace, out: Path) -> _Measured:
    """Measures whether another database means another style."""
    sizes = _sizes(args)
    from rdm_jax.cli import outputs
    from rdm_jax.evaluation import report
    from rdm_jax.evaluation.generation import ModelCellGenerator, reconstructor
    from rdm_jax.evaluation.style_swap import measure
    from rdm_jax.generator import Generator

    outputs.check_writable(out)
    arms = _arms(args.arm)
    generator = Generator.load(args.model)
    options = {name: getattr(args, name) for name in ("condition", "batch_size", "steps", "guidance_scale", "seed")}
    cell_generator = ModelCellGenerator(generator, args.databases, options)
    databases = cell_generator.check(arms)
    classifier = _classifier(args)
    _introduce(generator.bundle, classifier, databases)
    results, classified = measure(
        cell_generator, reconstructor(generator.bundle), classifier, sizes, _Stages(args.quiet), arms=arms
    )
    return _Measured(
        results=results,
        arguments={"sizes": dataclasses.asdict(sizes), "settings": cell_generator.settings},
        bundle=generator.bundle,
        classifier=classifier,
        databases=databases,
        markdown=report.markdown(results, f"Style swap of {generator.bundle.name}"),
        screen=report.screen(results),
        images={"grid.png": report.grid(classified.values())},
    )


def _guidance(args: argparse.Namespace, out: Path) -> _Measured:
    """Measures whether guidance has its expected effects."""
    methods, sizes = _methods(args.method), _guidance_sizes(args)
    from rdm_jax.cli import outputs
    from rdm_jax.evaluation import guidance_report as report
    from rdm_jax.evaluation.bench import SAMPLER, open_bench
    from rdm_jax.evaluation.guidance import measure
    from rdm_jax.generator import Generator

    outputs.check_writable(out)
    generator = Generator.load(args.model)
    databases = _databases(args.databases)
    for database in databases:
        database.check_encoder(generator.encoder.identity)
    generator.resolve(1, steps=sizes.steps, sampler=SAMPLER, seed=args.seed)
    classifier = _classifier(args)
    _introduce(generator.bundle, classifier, databases)
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(generator, databases, classifier, sizes, Path(folder), args.seed)
        results, shown = measure(bench, _Stages(args.quiet), methods)
    return _Measured(
        results=results,
        arguments={"sizes": dataclasses.asdict(sizes), "seed": args.seed},
        bundle=generator.bundle,
        classifier=classifier,
        databases=databases,
        markdown=report.markdown(results, f"Guidance of {generator.bundle.name}"),
        screen=report.screen(results),
        images={
            "grid.png": report.grid(bench.targets, sizes.images, shown, results),
            "curves.png": report.curves(results),
        },
    )


def _icon_set(args: argparse.Namespace, out: Path) -> _Measured:
    """Measures whether icons are made in styles that no training saw."""
    from rdm_jax.cli import outputs
    from rdm_jax.evaluation import icon_set_report as report
    from rdm_jax.evaluation.icon_set import measure
    from rdm_jax.generator import Generator

    outputs.check_writable(out)
    generator = Generator.load(args.model)
    others = {name: Generator.load(model) for name, model in map(_other, args.other)}
    bench = _icon_bench(args, int(generator.bundle.config["sampling"]["height"]))
    arms = _icon_arms(args, bench, generator, others)
    classifier = _classifier(args, ICON_CLASSIFIER_CONFIG)
    databases = [icons.database for icons in (*bench.styles.values(), bench.content) if icons.database is not None]
    _introduce(generator.bundle, classifier, databases)
    results, images = measure(arms, bench, classifier, _Stages(args.quiet))
    return _Measured(
        results=results,
        arguments={"settings": _icon_options(args), "candidates": args.candidates, "others": args.other},
        bundle=generator.bundle,
        classifier=classifier,
        databases=databases,
        markdown=report.markdown(results, f"Icon set expansion by {generator.bundle.name}"),
        screen=report.screen(results),
        images=report.sheet_files(bench, images, results),
    )


def _icon_bench(args: argparse.Namespace, size: int) -> IconBench:
    """Returns the databases and the cells; raises UserError where a database is missing or has no thumbnails."""
    from rdm_jax.data.icons.tags import read_tags
    from rdm_jax.evaluation.icon_set_bench import STYLES, Bench, Icons, cells_of
    from rdm_jax.retrieval.database import Database

    if args.databases is None:
        raise UserError(f"icon-set needs --databases: a folder of databases named as the styles, and {CONTENT!r}")
    styles = _chosen("style", args.style, {style: style for style in STYLES})[: 2 if args.quick else None]
    tags = read_tags(args.tags) if args.tags else {}
    opened = {style: Icons.of(Database.open(args.databases / style), size, style, tags) for style in styles}
    content = Icons.of(Database.open(args.databases / CONTENT), size, tags=tags)
    return Bench(opened, content, cells_of(styles, args.words or (2 if args.quick else None)))


def _icon_arms(
    args: argparse.Namespace, bench: IconBench, generator: Generator, others: Mapping[str, Generator]
) -> tuple[IconArm, ...]:
    """Returns the arms: the model first, with every number of candidates, the baselines, and other models."""
    from rdm_jax.evaluation.icon_set_arms import ContentArm, ModelArm, RetrievalArm, two_roles

    options = _icon_options(args)
    arms: dict[str, IconArm] = {}
    for count in args.candidates:
        name, title = ("model", "the model") if count == 1 else (f"model-{count}", f"the model, best of {count}")
        chosen = options if count == 1 else {**options, "candidates": count}
        arms[name] = ModelArm(name, title, generator, bench, chosen)
    arms["retrieval"] = RetrievalArm(bench, generator.encoder)
    arms["content"] = ContentArm(bench, generator.encoder)
    arms["named"] = ModelArm(
        "named", "the style named in the prompt, icons of other sets as neighbors", generator, bench, options, True
    )
    for name, other in others.items():
        # A scale of style is of models with two roles of neighbors alone.
        fitting = {key: value for key, value in options.items() if key != "style_scale" or two_roles(other)}
        arms[name] = ModelArm(name, f"the model {name}", other, bench, fitting)
    return _chosen("arm", args.arm, arms)


def _icon_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("batch_size", "steps", "guidance_scale", "style_scale", "seed")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _other(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise UserError(f"--other {text!r} is not NAME=MODEL, as in --other pooled=runs/pooled-bundle")
    return name, model


def _introduce(bundle: Bundle, classifier: AttributeClassifier, databases: Sequence[Database]) -> None:
    """Prints what is measured with what."""
    count = f"{len(databases)} database{'s' if len(databases) > 1 else ''}"
    note(f"model {bundle.name}, classifier {classifier.bundle.name}, {count}")


def _databases(folder: Path | None) -> list[Database]:
    """Returns the embedded database `general`, that of a folder, or all of a folder that has none.

    Raises:
      UserError: the folder has no database.
    """
    from rdm_jax.retrieval.database import Database

    if folder is None or (folder / GENERAL).is_dir():
        return [Database.open(folder / GENERAL if folder else GENERAL)]
    found = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if not found:
        raise UserError(f"{folder} has no database; give a folder of folders that `rdm database build` made")
    return [Database.open(path) for path in found]


def _guidance_sizes(args: argparse.Namespace) -> GuidanceSizes:
    from rdm_jax.evaluation.bench import QUICK
    from rdm_jax.evaluation.bench import Sizes as GuidanceSizes

    sizes = QUICK if args.quick else GuidanceSizes()
    if not 0 <= args.seed <= MAX_SEED:
        raise UserError(f"--seed {args.seed} is out of range; give 0 to {MAX_SEED}")
    for option, count in (("--targets", args.targets), ("--steps", args.steps)):
        if count is not None and count < 2:
            raise UserError(f"{option} {count} is too few; give 2 or more")
    return dataclasses.replace(sizes, targets=args.targets or sizes.targets, steps=args.steps or sizes.steps)


def _methods(wanted: list[str]) -> tuple[Method, ...]:
    from rdm_jax.evaluation.methods import METHODS

    return _chosen("method", wanted, {method.name: method for method in METHODS})


def _chosen(what: str, wanted: list[str], known: Mapping[str, T]) -> tuple[T, ...]:
    """Returns the wanted values by name, all of them if none is wanted; raises UserError for an unknown name."""
    from rdm_jax.core.errors import unknown

    for name in wanted:
        if name not in known:
            raise unknown(what, name, known)
    return tuple(value for name, value in known.items() if not wanted or name in wanted)


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


def _classifier(args: argparse.Namespace, config_name: str | None = None) -> AttributeClassifier:
    from rdm_jax.evaluation.classifiers import AttributeClassifier

    if args.train_classifier is None:
        return AttributeClassifier.open(args.classifier)
    place = paths.expanded(args.train_classifier)
    from rdm_jax.cli.train import train_in
    from rdm_jax.training.config import load_config
    from rdm_jax.training.export import export_run

    config = load_config(config_name or CLASSIFIER_CONFIG)
    step = train_in(place, config)
    if step < config.steps:
        raise UserError(
            f"the classifier in {place} is trained to step {step} of {config.steps}; the same command resumes"
        )
    return AttributeClassifier(export_run(place))


def _write(out: Path, record: dict[str, Any], measured: _Measured) -> Path:
    """Writes the images, the tables and, last of all, results.json; prints the tables."""
    from rdm_jax.cli import outputs
    from rdm_jax.cli.png import encode_png

    with outputs.run_folder(out, record=outputs.RESULTS) as folder:
        for name, image in measured.images.items():
            if image is not None:
                outputs.write_new(folder / name, encode_png(image))
        outputs.write_new(folder / "results.md", measured.markdown.encode())
        outputs.write_record(folder / outputs.RESULTS, record)
    sys.stdout.write(measured.screen + "\n")
    return folder


class _Stages:
    """Shows the progress of one stage of the measurement after another."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stage = ""
        self._shown: Progress | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._stage:
            self._stage, self._shown = what, Progress(what, unit="image", quiet=self._quiet)
        assert self._shown is not None
        self._shown(done, total)
