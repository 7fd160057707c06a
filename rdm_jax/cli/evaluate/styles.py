"""`rdm evaluate styles`: a style by its database, by its name in the prompt, by both, and by neither."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rdm_jax.cli.evaluate import style_swap
from rdm_jax.cli.evaluate.common import Measured, Stages, add_common, chosen, classifier_of, introduce

HELP = "a style by its database, by its name, by both, or by neither"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the measure's arguments."""
    add_common(parser, "folder of databases named as the styles, and `general`", "a few samples of each arm")
    parser.add_argument("--arm-samples", type=int, metavar="N", help="samples of each arm (default: 200)")
    style_swap.add_sampling_options(parser)
    parser.set_defaults(samples=None)


def run_measure(args: argparse.Namespace, out: Path) -> Measured:
    """Measures how well each way of requesting a style works."""
    sizes = style_swap.sizes_of(args)
    from rdm_jax.cli import run_folder
    from rdm_jax.data.style_scenes.vocabulary import KEPT_OUT
    from rdm_jax.evaluation import crossed

    run_folder.check_writable(out)
    arms = crossed.crossed_arms(args.held_out or (KEPT_OUT,))
    arms = chosen("arm", args.arm, {arm.name: arm for arm in arms})
    cell_generator = style_swap.cell_generator_of(args)
    databases = cell_generator.check(arms)
    bundle, classifier = cell_generator.generator.bundle, classifier_of(args)
    introduce(bundle, classifier, databases)
    results, classified = crossed.measure_crossed(cell_generator, classifier, sizes, Stages(args.quiet), arms)
    return Measured(
        results=results,
        arguments={"sizes": dataclasses.asdict(sizes), "settings": cell_generator.settings},
        bundle=bundle,
        classifier=classifier,
        databases=databases,
        markdown=crossed.markdown(results, f"Ways of requesting a style of {bundle.name}"),
        screen=crossed.screen(results),
        images={"grid.png": crossed.grid(classified)},
    )
