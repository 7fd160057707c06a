"""`rdm evaluate style-swap`: whether another database means another style."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_jax.cli.evaluate.common import Measured, Stages, add_common, chosen, classifier_of, introduce
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    from rdm_jax.evaluation.arms import Arm
    from rdm_jax.evaluation.generation import ModelCellGenerator
    from rdm_jax.evaluation.style_swap import Sizes

HELP = "does another database mean another style?"
OPTIONS = ("condition", "batch_size", "steps", "sampler", "guidance_scale", "neighbors", "conditions", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the measure's arguments."""
    add_common(parser, "folder of databases named as the styles, and `general`", "a few samples of each arm")
    parser.add_argument("--samples", type=int, metavar="N", help="samples of the first arm (default: 1000)")
    parser.add_argument("--arm-samples", type=int, metavar="N", help="samples of each other arm (default: 200)")
    add_sampling_options(parser)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of arms, real images and sampling."""
    parser.add_argument("--real-images", type=int, metavar="N", help="real images to compare with (default: 2304)")
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="NAME",
        help="measure this arm alone, and no reconstructions (repeatable)",
    )
    parser.add_argument(
        "--held-out",
        action="append",
        default=[],
        metavar="STYLE",
        help="a style that the model's training has excluded (repeatable; default: woodblock)",
    )
    parser.add_argument("--condition", metavar="C", help="neighbors or text+neighbors; the model's own by default")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="images generated at once (default: 8)")
    parser.add_argument(
        "--sampler", metavar="NAME", help="with its options, as \"ddim(spacing='compvis')\"; the model's own by default"
    )
    parser.add_argument("--steps", type=int, metavar="S", help="sampling steps; the model's own by default")
    parser.add_argument("--guidance-scale", type=float, metavar="G", help="the model's own by default")
    parser.add_argument("--neighbors", type=int, metavar="K", help="neighbors; the model's own number by default")
    parser.add_argument(
        "--with",
        dest="conditions",
        action="append",
        metavar="CALL",
        help='a condition beside the query, as "weights(of_neighbors=2)" (repeatable; rdm sample --list-guides)',
    )


def run_measure(args: argparse.Namespace, out: Path) -> Measured:
    """Measures whether another database means another style."""
    sizes = sizes_of(args)
    from rdm_jax.cli import run_folder
    from rdm_jax.evaluation import report
    from rdm_jax.evaluation.generation import reconstructor
    from rdm_jax.evaluation.style_swap import measure

    run_folder.check_writable(out)
    arms = _arms(args.arm, args.held_out)
    cell_generator = cell_generator_of(args)
    databases = cell_generator.check(arms)
    bundle, classifier = cell_generator.generator.bundle, classifier_of(args)
    introduce(bundle, classifier, databases)
    results, classified = measure(
        cell_generator,
        None if args.arm else reconstructor(bundle),  # of no arm
        classifier,
        sizes,
        Stages(args.quiet),
        arms=arms,
    )
    return Measured(
        results=results,
        arguments={"sizes": dataclasses.asdict(sizes), "settings": cell_generator.settings},
        bundle=bundle,
        classifier=classifier,
        databases=databases,
        markdown=report.markdown(results, f"Style swap of {bundle.name}"),
        screen=report.screen(results),
        images={"grid.png": report.grid(classified.values())},
    )


def cell_generator_of(args: argparse.Namespace) -> ModelCellGenerator:
    """Returns the model and the databases that the arguments name."""
    from rdm_jax.evaluation.generation import ModelCellGenerator
    from rdm_jax.generator import Generator

    options = {name: getattr(args, name) for name in OPTIONS}
    return ModelCellGenerator(Generator.load(args.model), args.databases, options)


def sizes_of(args: argparse.Namespace) -> Sizes:
    """Returns the numbers of images; raises UserError if one is too few."""
    from rdm_jax.evaluation.style_swap import QUICK, Sizes

    given = {"first": args.samples, "least": args.arm_samples, "real": args.real_images}
    options = {"first": "--samples", "least": "--arm-samples", "real": "--real-images"}
    for name, value in given.items():
        if value is not None and value < 2:
            raise UserError(f"{options[name]} {value} is too few; give 2 or more")
    sizes = QUICK if args.quick else Sizes()
    return dataclasses.replace(sizes, **{name: value for name, value in given.items() if value is not None})


def _arms(names: list[str], held_out: list[str]) -> tuple[Arm, ...]:
    from rdm_jax.evaluation.arms import arms_of

    return chosen("arm", names, {arm.name: arm for arm in (arms_of(held_out) if held_out else arms_of())})
