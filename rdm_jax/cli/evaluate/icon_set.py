"""`rdm evaluate icon-set`: whether icons are made in styles that no training saw."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.evaluate.common import Measured, Stages, add_common, chosen, classifier_of, introduce
from rdm_jax.cli.readers import number
from rdm_jax.core.errors import UserError
from rdm_jax.request import MOST

if TYPE_CHECKING:
    from rdm_jax.evaluation.icon_set import Arm as IconArm
    from rdm_jax.evaluation.icon_set_bench import Bench as IconBench
    from rdm_jax.generator import Generator

MODEL = "icons"
CLASSIFIER_CONFIG = "icons/classifier"
CONTENT = "content"  # the database of icons of all other styles
HELP = "are icons made in styles that no training saw?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the measure's arguments."""
    add_common(
        parser,
        "folder of databases named as the held-out styles, and `content`",
        "a few words and styles",
        model=MODEL,
        config=CLASSIFIER_CONFIG,
    )
    parser.add_argument(
        "--arm", action="append", default=[], metavar="NAME", help="measure this arm alone (repeatable)"
    )
    parser.add_argument("--style", action="append", default=[], metavar="NAME", help="of this style (repeatable)")
    parser.add_argument("--words", type=number(int, 1, 10**6), metavar="N", help="words of each group (default: all)")
    parser.add_argument(
        "--candidates",
        type=number(int, 1, MOST["candidates"]),
        nargs="+",
        default=[1],
        metavar="N",
        help="images generated for each one that is kept; several make an arm each (default: 1)",
    )
    parser.add_argument(
        "--other", action="append", default=[], metavar="NAME=MODEL", help="another model as an arm (repeatable)"
    )
    parser.add_argument("--tags", type=Path, metavar="DIR", help="folder of the packages with designers' tags")
    parser.add_argument("--batch-size", type=int, metavar="B", help="images generated at once; the default fits most")
    parser.add_argument("--steps", type=int, metavar="S", help="sampling steps; the model's own by default")
    parser.add_argument("--guidance-scale", type=float, metavar="G", help="the model's own by default")
    parser.add_argument("--style-scale", type=float, metavar="G", help="of the style alone; the model's own by default")
    parser.add_argument("--content-strength", type=float, metavar="S", help="start from the content, made this noisy")


def run_measure(args: argparse.Namespace, out: Path) -> Measured:
    """Measures whether icons are made in styles that no training saw."""
    from rdm_jax.cli import run_folder
    from rdm_jax.evaluation import icon_set_report as report
    from rdm_jax.evaluation.icon_set import measure
    from rdm_jax.generator import Generator

    run_folder.check_writable(out)
    generator = Generator.load(args.model)
    others = {name: Generator.load(model) for name, model in map(_other, args.other)}
    bench = _icon_bench(args, int(generator.bundle.config["sampling"]["height"]))
    arms = _icon_arms(args, bench, generator, others)
    classifier = classifier_of(args, CLASSIFIER_CONFIG)
    databases = [icons.database for icons in (*bench.styles.values(), bench.content) if icons.database is not None]
    introduce(generator.bundle, classifier, databases)
    results, images = measure(arms, bench, classifier, Stages(args.quiet))
    return Measured(
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
    styles = chosen("style", args.style, {style: style for style in STYLES})[: 2 if args.quick else None]
    tags = read_tags(args.tags) if args.tags else {}
    opened = {style: Icons.of(Database.open(args.databases / style), size, style, tags) for style in styles}
    content = Icons.of(Database.open(args.databases / CONTENT), size, tags=tags)
    return Bench(opened, content, cells_of(styles, args.words or (2 if args.quick else None)))


def _icon_arms(
    args: argparse.Namespace, bench: IconBench, generator: Generator, others: Mapping[str, Generator]
) -> tuple[IconArm, ...]:
    """Returns the arms: the model first, with every number of candidates, the baselines, and other models."""
    from rdm_jax.conditioning.roles import two_roles
    from rdm_jax.evaluation.icon_set_arms import ContentArm, ModelArm, RetrievalArm

    options = _icon_options(args)
    arms: dict[str, IconArm] = {}
    for count in args.candidates:
        name, title = ("model", "the model") if count == 1 else (f"model-{count}", f"the model, best of {count}")
        given = options if count == 1 else {**options, "candidates": count}
        arms[name] = ModelArm(name, title, generator, bench, given)
    arms["retrieval"] = RetrievalArm(bench, generator.encoder)
    arms["content"] = ContentArm(bench, generator.encoder)
    arms["named"] = ModelArm(
        "named", "the style named in the prompt, icons of other sets as neighbors", generator, bench, options, True
    )
    for name, other in others.items():
        of_roles = ("style_scale", "content_strength")  # options of models with two roles of neighbors alone
        fitting = {key: value for key, value in options.items() if key not in of_roles or two_roles(other.bundle)}
        arms[name] = ModelArm(name, f"the model {name}", other, bench, fitting)
    return chosen("arm", args.arm, arms)


def _icon_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("batch_size", "steps", "guidance_scale", "style_scale", "content_strength", "seed")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _other(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise UserError(f"--other {text!r} is not NAME=MODEL, as in --other pooled=runs/pooled-bundle")
    return name, model
